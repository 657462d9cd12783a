"""tools.png: a chat with a tool, as a terminal shows it.

python -m docs.picture
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tests.standins.program import PROGRAM
from tests.terminal import Terminal

PAGE = Path(__file__).with_name("tools.png")
COLUMNS, ROWS = 84, 14
SIZE, LINE, MARGIN = 16, 21, 14  # pixels
COLOURS = {"paper": "#1e1e2e", "ink": "#cdd6f4", "dim": "#8a8fa8", "cyan": "#94e2d5"}
SERVER = f"{sys.executable} -m demo.server"
FAINT, NOT_FAINT = 2, 22  # of ECMA-48's graphic renditions


def draw(terminal: Terminal, path: Path) -> None:
    """The screen as a picture. What is faint, which pyte doesn't know, is kept as blinking."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / "DejaVuSansMono.ttf"), SIZE)
    width = font.getlength("M")
    size = int(COLUMNS * width) + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    picture = Image.new("RGB", size, COLOURS["paper"])
    pen = ImageDraw.Draw(picture)
    for row in range(ROWS):
        for column in range(COLUMNS):
            cell = terminal.screen.buffer[row][column]
            ink = COLOURS["dim"] if cell.blink else COLOURS.get(cell.fg, COLOURS["ink"])
            place = MARGIN + column * width, MARGIN + row * LINE
            pen.text(place, cell.data, fill=ink, font=font)
    picture.quantize(32).save(path, optimize=True)


def keep_faint(terminal: Terminal) -> None:
    screen: Any = terminal.screen
    before = screen.select_graphic_rendition

    def select(*attributes: int, **more: Any) -> None:
        before(*attributes, **more)
        if FAINT in attributes or NOT_FAINT in attributes:
            screen.cursor.attrs = screen.cursor.attrs._replace(blink=FAINT in attributes)

    screen.select_graphic_rendition = select
    terminal.stream.attach(screen)  # which looks its methods up


def main() -> None:
    given = ["-m", "demo", "--temp", "0", "--no-save", "--no-server", "--mcp", SERVER]
    chat = Terminal([*PROGRAM, "chat", *given], COLUMNS, ROWS)
    keep_faint(chat)
    try:
        chat.prompt()
        chat.type("\x0c")  # clears what converting the demo said
        chat.line("How large will 70B be on my disk?")
        chat.wait("[a]lways")
        chat.line("y")
        chat.prompt()
        chat.ask("Hello!", "Hello! ")
        chat.until(lambda: " tokens (" in chat.text, "the line at the bottom")
        draw(chat, PAGE)
        chat.line("/exit")
        chat.leave()
    finally:
        chat.close()


if __name__ == "__main__":
    main()
