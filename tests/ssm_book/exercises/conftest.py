"""What it means that a check accepts an answer and that it explains one, for every chapter."""

import pytest


@pytest.fixture
def accepts(capsys):
    def run(check, answer):
        check(answer)
        assert capsys.readouterr().out.startswith("✓")  # a check that says nothing has not passed

    return run


@pytest.fixture
def explains():
    def run(check, answer, words):
        with pytest.raises(AssertionError, match=words):  # a crash would leave the reader alone
            check(answer)

    return run
