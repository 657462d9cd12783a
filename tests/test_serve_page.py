"""The page at /, in a real browser: what it can do, and what an answer can't."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.browser import Browser, browser
from tests.standins.server import WEB, Serving, serving
from tests.standins.waiting import wait_until

PICTURES = os.environ.get("LLAMACLI_PICTURES")  # a folder for screenshots, to be looked at

HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<svg onload='window.hacked=1'><g/></svg>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "[click](javascript:window.hacked=1) [again](data:text/html,<script>1</script>)",
    "<a href='javascript:window.hacked=1'>click</a>",
    "![picture](LEAK/picture.png) [![inside](LEAK/inside.png)](https://good.example)",
    "<style>@import 'LEAK/style.css'; body { display: none }</style>",
    "<link rel=stylesheet href='LEAK/link.css'><meta http-equiv=refresh content='0;LEAK/meta'>",
    "<form action='LEAK/form'><input name=x autofocus onfocus='window.hacked=1'></form>",
    "```html\n</code></pre><script>window.hacked=1</script>\n```",
    "`</code><img src=x onerror=window.hacked=1>`",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=1>",
    "<details open ontoggle='window.hacked=1'><summary>x</summary></details>",
    "<base href='LEAK/'><object data='LEAK/object'></object><embed src='LEAK/embed'>",
    '[x](https://a.example "onmouseover=window.hacked=1") <x id=messages>',
    "| a |\n|---|\n| <img src=x onerror=window.hacked=1> |",
    "<video src=LEAK/video autoplay onerror='window.hacked=1'></video>",
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def page(chromium: Browser, server: Serving) -> Browser:
    chromium.open(f"{server.url}/")
    chromium.run("localStorage.clear()")
    chromium.open(f"{server.url}/")
    wait_until(lambda: chromium.run("return document.querySelector('#model').length") == 1)
    return chromium


def picture(page: Browser, name: str) -> None:
    if PICTURES is not None:
        page.picture(Path(PICTURES) / f"{name}.png")


def messages(page: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('#messages .body')].map((n) => n.innerText)"
    return list(page.run(script))


def idle(page: Browser) -> bool:
    return bool(page.run("return document.querySelector('#stop').hidden"))


def ask(page: Browser, text: str) -> None:
    before = len(messages(page))
    page.type("#text", f"{text}\ue007")  # Enter
    wait_until(lambda: len(messages(page)) > before and idle(page))
    assert not page.text("#problem")


def test_the_files_and_their_policy(server: Serving) -> None:
    answer = WEB.get(f"{server.url}/")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "unsafe" not in policy
    assert "<script>" not in answer.text and "style=" not in answer.text
    for name in ("main.js", "page.css", "vendor/marked.js", "vendor/LICENSE-purify"):
        response = WEB.get(f"{server.url}/page/{name}")
        assert (
            response.status_code == 200 and response.headers["x-content-type-options"] == "nosniff"
        )
    for name in ("../app.py", "..%2fapp.py", "nothing", "/etc/passwd", "%2e%2e/page.py"):
        assert WEB.get(f"{server.url}/page/{name}").status_code == 404


def test_a_conversation(page: Browser) -> None:
    ask(page, "Hi")
    assert messages(page)[0] == "Hi" and messages(page)[1]
    ask(page, "What is a pipe?")
    assert len(messages(page)) == 4
    picture(page, "conversation")
    page.run("document.documentElement.dataset.theme = 'dark'")
    picture(page, "dark")
    page.click("#messages li:nth-child(2) .tools button:nth-child(2)")  # regenerate
    wait_until(lambda: len(messages(page)) == 2 and idle(page) and bool(messages(page)[1]))
    page.open(page.run("return location.href"))
    page.click("#chats li:nth-child(2) button")  # kept in the browser
    assert len(messages(page)) == 2
    page.click("#messages li:nth-child(1) .tools button:nth-child(2)")  # edit
    assert page.run("return document.querySelector('#text').value") == "Hi"
    assert not messages(page)


def test_settings_and_chats(page: Browser) -> None:
    page.click("#open-settings")
    page.type("#system", "Be brief.")
    page.type("#max_tokens", "3")
    page.type("#temperature", "0")
    picture(page, "settings")
    page.click("#settings button[value=done]")
    ask(page, "Hi")
    assert "3 tokens" in page.text("#messages li:last-child .told")
    page.click("#new")
    assert not messages(page)
    ask(page, "Another")
    assert page.run("return document.querySelectorAll('#chats li').length") == 2
    page.click("#chats li:nth-child(2) button")
    assert messages(page)[0] == "Hi"


def test_an_answer_that_is_given_up_takes_no_other_with_it(page: Browser) -> None:
    ask(page, "Hi")
    page.run(
        "window.fetch = (_, { signal }) => new Promise((_, fail) =>"
        " signal.addEventListener('abort', () => fail(new DOMException('', 'AbortError'))))"
    )
    for press in ("#messages li:nth-child(3) .tools button:nth-child(2)", "#new"):  # edit
        page.type("#text", "\ue007" if page.run("return text.value") else "Again\ue007")
        wait_until(lambda: len(messages(page)) == 4 and not idle(page))
        page.click(press)
        wait_until(lambda: idle(page))
        assert len(messages(page)) in (0, 2)
    page.click("#chats li:nth-child(2) button")
    assert len(messages(page)) == 3 and messages(page)[2] == "Again"


def test_a_deleted_chats_system_prompt_goes_with_it(page: Browser) -> None:
    ask(page, "Hi")
    page.click("#open-settings")
    page.type("#system", "Be brief.")
    page.click("#delete")
    wait_until(lambda: not messages(page))
    page.click("#open-settings")
    assert page.run("return document.querySelector('#system').value") == ""
    page.click("#settings button[value=done]")


def test_the_keyboard_alone(page: Browser) -> None:
    assert page.run("return document.activeElement.id") == "text"
    ask(page, "Hi")
    page.type("#text", "\ue013")  # arrow up: the last question, to be edited
    assert page.run("return document.querySelector('#text').value") == "Hi"
    page.type("#text", "\ue008\ue007\ue008x")  # Shift+Enter breaks the line
    assert page.run("return document.querySelector('#text').value") == "Hi\nx"


def test_stop(endless: Path, chromium: Browser) -> None:
    with serving("-m", endless, "-c", "100000") as server:
        chromium.open(f"{server.url}/")
        wait_until(lambda: chromium.run("return document.querySelector('#model').length") == 1)
        chromium.type("#text", "Hi\ue007")
        wait_until(lambda: len(messages(chromium)) == 2 and len(messages(chromium)[1]) > 50)
        chromium.type("#text", "\ue00c")  # Escape
        wait_until(lambda: idle(chromium))
        wait_until(lambda: "processing 0.0" in WEB.get(f"{server.url}/metrics").text)
        assert "stopped" in chromium.text("#messages li:last-child .told")


def test_an_error_is_told(page: Browser) -> None:
    page.run("document.querySelector('#text').value = 'word '.repeat(20000)")
    page.click("#send")
    wait_until(lambda: "tokens, the context" in page.text("#problem"))


def test_code_can_be_copied(page: Browser, server: Serving) -> None:
    put(page, server, ["```python\nprint(1)\n```"])
    page.click(".code button")
    wait_until(lambda: page.text(".code button") == "Copied")


def put(page: Browser, server: Serving, answers: list[str]) -> None:
    """A chat with those answers, as if the model had given them."""
    chat = {"id": "x", "system": "", "messages": [
        {"role": "assistant", "content": text.replace("LEAK", f"{server.url}/leak")}
        for text in answers
    ]}  # fmt: skip
    page.run("localStorage.setItem('llamacli.chats', arguments[0])", json.dumps([chat]))
    page.open(f"{server.url}/")
    page.run("document.querySelector('#chats li:last-child button').click()")
    wait_until(lambda: len(messages(page)) == len(answers))


def test_a_hostile_answer_runs_nothing_and_fetches_nothing(page: Browser, server: Serving) -> None:
    put(page, server, [*HOSTILE, "\n\n".join(HOSTILE)])
    page.run("for (const a of document.querySelectorAll('#messages a[href^=java]')) a.click()")
    picture(page, "hostile")
    script = """
        const list = document.querySelector('#messages');
        const bad = 'script,img,svg,iframe,style,link,meta,form,input,object,embed,base,' +
            'video,math,details,[onerror],[onload],[onfocus],[style],[id]';
        const links = [...list.querySelectorAll('a')].map((a) => a.getAttribute('href'));
        return [window.hacked ?? null, list.querySelectorAll(bad).length, links];
    """
    hacked, elements, links = page.run(script)
    assert hacked is None and elements == 0
    assert all(link is None or link.startswith(("https://", "http://")) for link in links), links
    assert page.run("return getComputedStyle(document.body).display") != "none"
    assert not any("leak" in line for line in server.log)
    narrow = "const s = document.querySelector('#side'); return s.scrollWidth <= s.clientWidth"
    assert page.run(narrow)


def test_a_hostile_stream_runs_nothing_at_any_split(page: Browser, server: Serving) -> None:
    """The same, as it comes in pieces of one character."""
    page.run(
        """
        const answers = arguments[0];
        window.fetch = async () => new Response(new ReadableStream({ start(control) {
            const encode = (text) => new TextEncoder().encode(text);
            for (const c of answers) control.enqueue(encode('data: ' +
                JSON.stringify({ choices: [{ delta: { content: c } }] }) + '\\n\\n'));
            control.enqueue(encode('data: [DONE]\\n\\n'));
            control.close();
        } }));
        """,
        "\n\n".join(HOSTILE).replace("LEAK", f"{server.url}/leak"),
    )
    ask(page, "Hi")
    assert page.run("return window.hacked ?? null") is None
    count = "return document.querySelectorAll('#messages img, #messages script').length"
    assert page.run(count) == 0


def test_on_a_phone(page: Browser) -> None:
    page.size(390, 800)
    try:
        ask(page, "Hi")
        picture(page, "phone")
        wide = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert page.run(wide)
        page.click("#menu")
        picture(page, "phone-menu")
        assert page.run("return getComputedStyle(document.querySelector('#side')).visibility") == (
            "visible"
        )
        page.click("#new")
        assert not messages(page)
    finally:
        page.size(1200, 800)
