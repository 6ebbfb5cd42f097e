import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.example import example_results, write_example

from ptq4dm.errors import ArtifactError
from ptq4dm.report.page import render
from ptq4dm.report.report import build_report
from ptq4dm.report.results import checked

OPTIONAL = [key for key in example_results() if key not in ("format_version", "model")]
VOID = {"meta", "link", "img", "br", "wbr"}


class Outline(html.parser.HTMLParser):
    """Checks that tags nest, and keeps attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def outline(page: Path) -> Outline:
    parsed = Outline()
    parsed.feed(page.read_text(encoding="utf-8"))
    parsed.close()
    assert parsed.open == []
    return parsed


def test_page_lies_in_the_results_folder_or_where_it_is_wanted(tmp_path: Path) -> None:
    folder = write_example(tmp_path / "results")
    assert build_report(folder) == folder / "report.html"
    assert build_report(folder / "results.json") == folder / "report.html"
    other = build_report(folder, tmp_path / "pages" / "mine.html")
    assert other.read_bytes() == (folder / "report.html").read_bytes()


def test_page_holds_everything_itself(tmp_path: Path) -> None:
    page = outline(build_report(write_example(tmp_path)))
    targets = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert len(targets) > 9
    assert all(value.startswith("data:") for value in targets)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", (tmp_path / "report.html").read_text())


def test_pictures_have_words_and_ids_are_unique(tmp_path: Path) -> None:
    page = outline(build_report(write_example(tmp_path)))
    images = sum(tag == "img" and name == "src" for tag, name, _ in page.attributes)
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == images and all(alts)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = [part for _, name, value in page.attributes if name == "aria-labelledby" for part in value.split()]
    assert named and set(named) <= set(ids)


def test_measured_figures_stand_in_the_page(tmp_path: Path) -> None:
    text = outline(build_report(write_example(tmp_path))).text
    for figure in (
        "2.16 %",
        "30.4 dB",
        "2.18×",
        "1.43× to 1.52×",
        "3.88×",
        "1.97×",
        "55.3 ms",
        "128 samples",
        "16 %",
        "2.21×",
        "4,096 to find sensitive layers",
    ):
        assert figure in text, figure
    assert "kept in float by the pattern 'conv_in'" in text
    assert "In this network: 30 GroupNorm, 31 SiLU." in text
    assert "39 of 39 quantized layers multiplied integers" in text
    assert "ptq4dm evaluate demo/int8 --count 16" in text


def test_every_cell_carries_the_name_of_its_column(tmp_path: Path) -> None:
    """What a phone shows before the cell, where the head of the table is not seen."""
    text = build_report(write_example(tmp_path)).read_text()
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        head = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
        for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", table, re.DOTALL):
            assert re.findall(r'<td data-label="(.*?)"', row) == head[1:]


def test_the_limit_of_a_call_is_not_laid_to_whole_trajectories(tmp_path: Path) -> None:
    text = build_report(write_example(tmp_path)).read_text()
    assert text.count(">of the limit</th>") == 1
    assert text.index("end to end</span>") > text.index(">of the limit</th>")


@pytest.mark.parametrize("key", OPTIONAL)
def test_a_missing_part_is_told_and_the_rest_is_drawn(tmp_path: Path, key: str) -> None:
    results = example_results() if key == "pictures" else example_results() | {"pictures": None}
    with_null = outline(build_report(write_example(tmp_path, results | {key: None}))).text
    without = {name: value for name, value in results.items() if name != key}
    assert outline(build_report(write_example(tmp_path, without))).text == with_null
    assert "emoji-32 in INT8" in with_null


def without_one_key(value: Any) -> Iterator[Any]:
    """Copies of nested data with one key null, at every depth (of a list, in its first entry), or one list empty."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield value | {key: None}
            yield from (value | {key: changed} for changed in without_one_key(item))
    elif isinstance(value, list) and value:
        yield []
        yield from ([changed, *value[1:]] for changed in without_one_key(value[0]))


def test_no_missing_key_ends_in_a_traceback(tmp_path: Path) -> None:
    drawn = refused = 0
    for results in without_one_key(example_results() | {"pictures": None}):
        try:
            drawn += len(render(checked(results, tmp_path), tmp_path)) > 10_000
        except ArtifactError:
            refused += 1
    assert drawn > 80 and refused > 20


def with_another_type(value: Any) -> Iterator[Any]:
    """Copies of nested data with one value of another type, at every depth (of a list, in its first entry)."""
    if isinstance(value, dict):
        for key, item in value.items():
            others = ["text", 3, [], {}] if isinstance(item, dict | list) else [["text"], {"key": "text"}, "text", 3]
            yield from (value | {key: other} for other in others if type(other) is not type(item))
            yield from (value | {key: changed} for changed in with_another_type(item))
    elif isinstance(value, list) and value:
        yield from ([changed, *value[1:]] for changed in with_another_type(value[0]))


PARTS = ["model", "calibration", "notes", "commands", "size", "memory"]


@pytest.mark.parametrize("key", PARTS)
def test_no_value_of_another_type_ends_in_a_traceback(tmp_path: Path, key: str) -> None:
    whole: dict[str, Any] = example_results()
    refused = 0
    for changed in with_another_type({key: whole[key]}):
        try:
            render(checked({"format_version": 1, "model": whole["model"], **changed}, tmp_path), tmp_path)
        except ArtifactError as error:
            refused += "evaluate again" in str(error)
    assert refused > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"notes": 3}, "the file.notes = 3 should be a list"),
        ({"commands": 3}, "the file.commands = 3 should be a list"),
        ({"calibration": {"samples": "many"}}, "calibration.samples = 'many' should be a float"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        build_report(write_example(tmp_path, example_results() | changes))


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = outline(build_report(write_example(tmp_path, {"format_version": 1, "model": {"name": "net"}}))).text
    for words in ("No pictures were drawn", "Speed was not measured", "Memory was not measured", "was not measured",
                  "neither its pictures nor its speed were measured"):  # fmt: skip
        assert words in text, words
    assert "None" not in text and "undefined" not in text.lower()


def test_names_from_outside_are_text_not_markup(tmp_path: Path) -> None:
    results: dict[str, Any] = example_results()
    evil = "<script>alert(1)</script>\"'&"
    results["model"]["name"] = evil
    results["notes"] = [evil]
    results["plan"][-1]["reason"] = evil
    results["layers"][0]["name"] = evil
    results["activation_ranges"][0]["layer"] = evil
    results["speed"]["rows"][0]["engine"] = evil
    results["environment"][evil] = evil
    page = build_report(write_example(tmp_path, results))
    assert page.read_text().count("<script>") == 1
    assert evil in outline(page).text


def test_identical_pictures_and_unknown_laws_are_drawn(tmp_path: Path) -> None:
    results: dict[str, Any] = example_results()
    results["fidelity"]["pictures"] |= {"psnr_mean": None, "psnr": [None] * 16, "identical": 16}
    results["fidelity"]["call"]["psnr_mean"] = None
    results["fidelity"]["call"]["curve"]["psnr"] = [None] * 50
    results["calibration"] |= {"law": "mine.law", "law_options": {}}
    text = outline(build_report(write_example(tmp_path, results))).text
    assert "identical" in text
    assert "no density that could be drawn" in text


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"format_version": 2, "model": {"name": "net"}}, "format_version 2, this ptq4dm reads 1: update ptq4dm"),
        ({"model": {"name": "net"}}, "format_version None"),
        ({"format_version": 1}, "key 'model'"),
        ([], "not an object"),
        ({"format_version": 1, "model": {"name": "net"}, "speed": {"rows": [{"engine": "x"}]}}, r"speed\.rows\[0\]"),
        ({"format_version": 1, "model": {"name": "net"}, "plan": "all"}, r"plan\[0\] is a str"),
    ],
)
def test_results_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path, results: Any, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        build_report(write_example(tmp_path, results))
    assert not (tmp_path / "report.html").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no results\.json in .*nowhere"):
        build_report(tmp_path / "nowhere")
    folder = write_example(tmp_path / "a")
    (folder / "int8.png").write_bytes((folder / "int8.png").read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"int8\.png cannot be read as a picture"):
        build_report(folder)
    (folder / "int8.png").unlink()
    with pytest.raises(ArtifactError, match=r"int8\.png is missing"):
        build_report(folder)
    (folder / "results.json").write_text(json.dumps(example_results())[:-20])
    with pytest.raises(ArtifactError, match=r"cannot be read as JSON"):
        build_report(folder)
    assert not (folder / "report.html").exists()
