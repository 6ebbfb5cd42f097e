"""What the demo's benchmark runs and times."""

import sys

from bench_demo import ROOT, demo_arguments, timed_stages

STAGES = r"""
import sys, time
time.sleep(0.2)
for words in ("1/3 quantize emoji-32", "\rcollect  1/3 \r   \r2/3 draw 16 pictures", "3/3 draw the page"):
    print(words, file=sys.stderr, flush=True)
    time.sleep(0.4 if words.startswith("1") else 0.1)
"""


def test_it_runs_what_the_makefile_runs():
    assert demo_arguments((ROOT / "Makefile").read_text()) == ["demo", "--out", "demo"]


def test_a_stage_lasts_until_the_next_begins(tmp_path, capfd):
    seconds = timed_stages([sys.executable, "-c", STAGES], str(tmp_path))
    assert list(seconds) == ["start", "quantize", "evaluate", "page"]
    late = 0.08  # the beginning of a stage may be read a little after it was written
    assert 0.4 - late <= seconds["quantize"] < 0.4 + late + seconds["start"] and seconds["evaluate"] >= 0.1 - late
    assert "\r2/3 draw 16 pictures\n" in capfd.readouterr().err
