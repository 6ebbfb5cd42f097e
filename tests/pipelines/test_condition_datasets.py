"""Columns of Hugging Face datasets as conditions, all of it offline."""

import sys

import numpy as np
import pytest
from PIL import Image

import ptq4dm
from ptq4dm.errors import CalibrationError, MissingDependencyError

datasets = pytest.importorskip("datasets")
CAPTIONS = [f"picture {index}" for index in range(10)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset of captions in every form that lies on a disk."""
    root = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        rows = datasets.Dataset.from_dict({"caption": CAPTIONS, "number": list(range(10))})
        rows.to_parquet(str(root / "captions.parquet"))
        rows.to_csv(str(root / "captions.csv"))
        (root / "captions.txt").write_text("\n".join(CAPTIONS))
        (root / "folder").mkdir()
        rows.to_parquet(str(root / "folder" / "train.parquet"))
        rows.save_to_disk(str(root / "saved"))
        datasets.DatasetDict({"train": rows, "test": rows.select([3])}).save_to_disk(str(root / "splits"))
        (root / "pictures").mkdir()
        for index in range(2):
            Image.fromarray(np.full((8, 8), 90 * index, np.uint8)).save(root / "pictures" / f"{index}.png")
        lines = ('{"file_name": "0.png", "text": "dark"}', '{"file_name": "1.png", "text": "gray"}')
        (root / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
        yield root


@pytest.mark.parametrize("name", ["captions.parquet", "captions.csv", "folder", "saved", "splits"])
def test_a_column_of_a_file_or_folder(place, name):
    conditions = ptq4dm.dataset_conditions(place / name, "caption")
    assert [conditions[index] for index in range(len(conditions))] == [{"prompt": text} for text in CAPTIONS]


def test_lines_splits_and_an_even_choice_of_rows(place):
    assert ptq4dm.dataset_conditions(place / "captions.txt", "text")[9] == {"prompt": "picture 9"}
    assert list(ptq4dm.dataset_conditions(place / "splits", "caption", "test")) == [{"prompt": "picture 3"}]
    assert len(ptq4dm.dataset_conditions(place / "folder", "caption", "train[:4]")) == 4
    for name in ("saved", "splits"):
        assert list(ptq4dm.dataset_conditions(place / name, "caption", "train[:3]")) == [
            {"prompt": text} for text in CAPTIONS[:3]
        ]
        assert len(ptq4dm.dataset_conditions(place / name, "caption", "train[-40%:]")) == 4
    parts = ptq4dm.dataset_conditions(place / "splits", "caption", "test+train[8:]")
    assert [item["prompt"] for item in parts] == ["picture 3", "picture 8", "picture 9"]
    some = ptq4dm.dataset_conditions(datasets.Dataset.from_dict({"caption": CAPTIONS}), "caption", count=4)
    assert [item["prompt"] for item in some] == ["picture 0", "picture 3", "picture 6", "picture 9"]


def test_several_columns_for_several_arguments(place):
    conditions = ptq4dm.dataset_conditions(place / "pictures", {"prompt": "text", "image": "image"})
    assert conditions[1]["prompt"] == "gray"
    assert conditions[1]["image"].mode == "RGB" and conditions[1]["image"].getpixel((3, 3)) == (90, 90, 90)


def test_what_is_told_in_one_line(place, monkeypatch):
    with pytest.raises(CalibrationError, match="no column 'prompt': it has caption, number"):
        ptq4dm.dataset_conditions(place / "folder", "prompt")
    with pytest.raises(CalibrationError, match=r"columns = \['caption'\]: give the name of the column"):
        ptq4dm.dataset_conditions(place / "captions.csv", ["caption"])
    with pytest.raises(CalibrationError, match=r"row 0 of the column 'number' is 0: a prompt should be text"):
        ptq4dm.dataset_conditions(place / "folder", "number")[0]
    with pytest.raises(CalibrationError, match=r"with a split 'tset'.*Should be one of"):
        ptq4dm.dataset_conditions(place / "folder", "caption", "tset")
    with pytest.raises(CalibrationError, match="has no split 'tset': it has train, test"):
        ptq4dm.dataset_conditions(place / "splits", "caption", "tset")
    with pytest.raises(CalibrationError, match=r"no split 'tset\[:3\]': it has train, of which slices such as"):
        ptq4dm.dataset_conditions(place / "saved", "caption", "tset[:3]")
    with pytest.raises(CalibrationError, match=r"no split 'train\[3': it has train"):
        ptq4dm.dataset_conditions(place / "saved", "caption", "train[3")
    with pytest.raises(CalibrationError, match=r"the split 'train\[10:\]' of the dataset has no rows"):
        ptq4dm.dataset_conditions(place / "saved", "caption", "train[10:]")
    with pytest.raises(CalibrationError, match=r"a list is no dataset: give a datasets.Dataset, a hub id"):
        ptq4dm.dataset_conditions(["a cat"], "caption")
    with pytest.raises(CalibrationError, match=r"no dataset '.*nothing' with a split 'train'"):
        ptq4dm.dataset_conditions(place / "nothing", "caption")
    (place / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(CalibrationError, match=r"no dataset '.*broken\.parquet'"):
        ptq4dm.dataset_conditions(place / "broken.parquet", "caption")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ptq4dm\[datasets\]'"):
        ptq4dm.dataset_conditions(place / "folder", "caption")


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch):
    monkeypatch.setattr("ptq4dm.pipelines.condition_datasets.why_hub_is_silent", lambda place, kind: f"no {kind} hub")
    with pytest.raises(CalibrationError, match=r"no dataset 'nobody/none' .*no dataset hub; HF_HUB_OFFLINE=1 looks in"):
        ptq4dm.dataset_conditions("nobody/none", "caption")
