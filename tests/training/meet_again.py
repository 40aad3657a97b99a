"""One of several ranks that meet, part and meet again."""

from lifting.training import ranks


def main() -> None:
    for turn in range(20):
        ranks.start("cpu")
        assert ranks.all_have(turn)
        ranks.stop()
