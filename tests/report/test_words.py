import pytest

from ptq4dm.report import words


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (words.percent, 0.0218, "2.18 %"),
        (words.percent, 0.015, "1.50 %"),
        (words.percent, 1.0, "100 %"),
        (words.percent, 0.0, "0 %"),
        (words.decibels, None, "identical"),
        (words.decibels, 30.44, "30.4 dB"),
        (words.milliseconds, 0.0553, "55.3 ms"),
        (words.milliseconds, 0.782, "782 ms"),
        (words.milliseconds, 61.0, "61.0 s"),
        (words.duration, 59.4, "59 s"),
        (words.duration, 512.3, "8 min 32 s"),
        (words.duration, 7260.0, "2 h 1 min"),
        (words.megabytes, 28_812_345, "28.8 MB"),
        (words.megabytes, 1_500_000_000, "1.50 GB"),
        (words.large, 1.2e9, "1.2 G"),
        (words.short_name, "/home/me/my-pipe/", "my-pipe"),
        (words.short_name, "google/ddpm-cifar10-32", "google/ddpm-cifar10-32"),
        (words.signed, -0.2, "−0.2"),
    ],
)
def test_numbers_read_as_a_person_writes_them(function, value, expected) -> None:
    assert function(value) == expected


def test_nested_settings_become_rows() -> None:
    recipe = {"name": "w8a8", "keep_float": ["a", "b"], "weights": {"portable": True}, "options": {}, "count": 0}
    assert words.flat(recipe) == [
        ("name", "w8a8"),
        ("keep_float", "a, b"),
        ("weights.portable", "yes"),
        ("options", "none"),
        ("count", "0"),
    ]
