"""The page of commands says what the program says."""

from docs.commands import PAGE, page


def test_the_page_is_what_the_program_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.commands"
