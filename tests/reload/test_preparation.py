"""What an edit has prepared is put in use, or let go, as a whole."""

from scalesocket.reload.preparation import commit_all, roll_back_all


class Failing:
    def __init__(self, done: list[str]) -> None:
        self.done = done

    def commit(self) -> None:
        self.done.append("commit")
        raise OSError("injected")

    def roll_back(self) -> None:
        self.done.append("take back")
        raise OSError("injected")


def test_one_that_fails_does_not_stop_the_commit_or_rollback_of_others() -> None:
    done: list[str] = []

    commit_all([Failing(done), Failing(done)])
    roll_back_all([Failing(done), Failing(done)])

    assert done == ["commit"] * 2 + ["take back"] * 2
