"""The prediction against what one counts by hand."""

import sys
from dataclasses import replace

import pytest

pytest.importorskip("triton")


def test_the_prediction_counts_the_products_of_the_network(module):
    """6.05 billion multiply-adds a sample, as counted for this network elsewhere; a little of it stays in float."""
    predict = module("predict")
    half, int8 = predict.predicted("ddpm-cifar10", 1)
    assert 5.9e9 < sum(kernel.operations for kernel in int8 if kernel.in_int8) / 2 <= 6.05e9
    assert sum(kernel.operations for kernel in half) == sum(kernel.operations for kernel in int8)
    card = predict.Card(fp16=1e12, int8=2e12, bandwidth=1e30)  # bound by arithmetic alone
    products = {kernel.name: kernel.seconds(card) for kernel in int8 if kernel.in_int8}
    assert sum(kernel.seconds(card) for kernel in half if kernel.name in products) == 2 * sum(products.values())


def test_the_prediction_is_what_one_counts_by_hand(module):
    """The tiny network at batch 1: 64 places; 8 channels, 16 where a skip connection comes beside them."""
    predict = module("predict")
    half, int8 = predict.predicted("tiny", 1)
    n, wide, nine, one = 512, 1024, 9 * 64, 64  # numbers of a picture, of two; weights of convolutions 8 -> 8
    in_float = 2 * (192 + 216 + n) + 2 * (n + 216 + 192)  # first and last convolution
    in_float += 2 * (8 + 256 + 32) + 2 * (32 + 1024 + 32) + 3 * 2 * (32 + 256 + 8)  # layers of time
    in_float += 2 * 8 * 4 * 64 + 6 * n  # attention: queries, keys, values, result; the last normalisation
    floats = 2 * (n + nine + n) * 4 + 2 * (n + one + n) * 4  # convolutions 8 -> 8; q, k, v and the last of attention
    floats += 2 * 2 * (wide + 2 * nine + n) + 2 * 2 * (wide + 2 * one + n)  # 16 -> 8, and shortcuts
    floats += 6 * n * 5 + 6 * wide * 2  # normalisations
    floats += 4 * wide * 2 + 2 * n * 4  # skip connections copied; residuals of three blocks and of attention
    assert sum(kernel.moved for kernel in half) == in_float + floats
    integers = (n + nine + 2 * n) + 3 * (n + nine + 4 * n)  # three of the convolutions 8 -> 8 add a residual
    integers += 3 * (n + one + 2 * n) + (n + one + 4 * n) + 3 * n  # and the last of attention, which rounds for itself
    integers += 2 * (wide + 2 * nine + 2 * n) + 2 * (wide + 2 * one + 2 * n)
    integers += 5 * n * 4 + (4 + 3) * n + (4 + 2) * wide * 2  # normalisations round for one layer, for three, for two
    assert sum(kernel.moved for kernel in int8) == in_float + integers
    assert sum(kernel.again for kernel in int8) == 2 * n * 5 + 2 * wide * 2
    products = 2 * 64 * (nine * 4 + one * 4 + 2 * 2 * nine + 2 * 2 * one)
    assert sum(kernel.operations for kernel in int8 if kernel.in_int8) == products
    slow = predict.Card(fp16=1e30, int8=1e30, bandwidth=1.0)
    assert sum(kernel.seconds(slow, cached=True) for kernel in int8) == in_float + integers - 2 * n * 5 - 2 * wide * 2


def test_the_prediction_prints_a_table_for_a_card(module, monkeypatch, capsys):
    predict = module("predict")
    from networks import built

    monkeypatch.setattr(
        predict, "NETWORKS", {"tiny": predict.NETWORKS["tiny"], "dit-xl": replace(predict.NETWORKS["tiny"], batch=2)}
    )
    monkeypatch.setattr(predict, "built", lambda name, device: built("tiny", device))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--card", "h200", "--bandwidth", "1e-3"])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.count("|") == 9 for line in lines)
    assert lines[3].startswith("| dit-xl, 2 | 0.00 | ") and " | 100 % | " in lines[3]
