"""Stored measurements are found in the checkout and in the installed package."""

from __future__ import annotations

import importlib.resources
import json
import pathlib

import pytest

from ssm_book import data


def test_measurements_of_the_repository_are_the_files():
    files = [
        path
        for room in ("benchmarks", "experiments")
        for path in (pathlib.Path(__file__).parents[3] / room / "results").glob("*.json")
    ]
    assert len(files) > 10
    for path in files:
        found = data.measurements(path.stem)
        assert found == json.loads(path.read_text(encoding="utf-8"))
        assert found["machine"]["processor"] and found["software"]["torch"]
    assert data.measurements("hippo-cpu") is not data.measurements("hippo-cpu")


def test_measurements_of_an_installed_package_come_first(monkeypatch, tmp_path):
    for folder in ("benchmarks/results", "ssm_book/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "some-gpu.json").write_text(
            json.dumps({"from": folder}), encoding="utf-8"
        )
    (tmp_path / "ssm_book/results/.gitkeep").touch()
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    assert data.measurements("some-gpu") == {"from": "ssm_book/results"}
    (tmp_path / "ssm_book/results").rename(tmp_path / "elsewhere")
    assert data.measurements("some-gpu") == {"from": "benchmarks/results"}


@pytest.mark.parametrize(
    "name", ["hippo", "hippo-cpu.json", "../results/hippo-cpu", "", ".gitkeep"]
)
def test_measurements_that_do_not_exist(name):
    with pytest.raises(ValueError, match=r"name is '.*', expected one of: .*hippo-cpu"):
        data.measurements(name)
    with pytest.raises(TypeError, match="name is None, expected one of"):
        data.measurements(None)


def test_measurements_where_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(ValueError, match="no measurements are installed"):
        data.measurements("hippo-cpu")
