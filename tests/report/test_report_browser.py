"""A report in a real browser: usable with mouse and keyboard, on a telephone too, and hostile programs stay text."""

import re

import pytest

from tests.support.browser import find_browser, open_browser
from trl_pper import Experience, ReplayBuffer
from trl_pper.report.history import history_of
from trl_pper.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="needs chromium or google-chrome"),
]

ATTACKS = (
    "</script><script>document.title = 'ran'</script>",
    "<img src=x onerror=\"document.title = 'ran'\"><svg onload=\"document.title = 'ran'\">",
    "<iframe src=\"javascript:document.title='ran'\"></iframe><style>body { display: none }</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/a.css><base href=http://127.0.0.1:9/><form><input autofocus>",
    "<!--<script>\u2028<![CDATA[ ]]> {{ 7 * 7 }} {% raw %} ${document.title = 'ran'} &lt;b&gt;",
    "print('a\x00b\x1b[31m\u202egnirts\u2066\u200b\ufeff\U000e0041')\r\n",
    "x = '" + "y" * 2_000_000 + "'",
    "\U0001f600 \u05d0\u05d1\u05d2 \ud7ff",
)


def attacked() -> ReplayBuffer:
    """A buffer in which every text is an attack."""
    buffer = ReplayBuffer()
    outcomes = {1.0: ("passed", "passed"), 0.5: ("passed", "runtime_error"), 0.0: ("timeout", "wrong_answer")}
    for attack in ATTACKS:
        buffer.add(
            Experience(
                task_id=attack[:500], prompt=attack, completion="c", program=f"{attack}{rate}", pass_rate=rate,
                outcomes=outcomes[rate], source=attack[:500], scorer=attack[:500], settings=attack[:500],
            )
            for rate in outcomes
        )  # fmt: skip
    return buffer


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The address of a report on 60 programs of 20 tasks, and its buffer."""
    buffer = ReplayBuffer()
    buffer.add(
        Experience(
            task_id=f"task/{i // 3}", prompt=f"# task {i // 3}\n", completion="c", pass_rate=(0.0, 0.5, 1.0)[i % 3],
            program=f"def f(x):\n    return x + {i % 3}\n\n\n# {i // 3}\n", round_index=i // 30,
            outcomes=(("wrong_answer", "timeout"), ("passed", "wrong_answer"), ("passed", "passed"))[i % 3],
            logprob=None if i % 10 == 0 else -float(i), num_tokens=60,
        )
        for i in range(60)
    )  # fmt: skip
    file = tmp_path_factory.mktemp("calm") / "report.html"
    scores = [(0, {"eval_accuracy": 0.25, "eval_pass_rate": 0.4}), (2, {"eval_accuracy": 0.5, "eval_pass_rate": 0.6})]
    write_report(file, buffer, title="Calm", history=history_of(evaluations=scores))
    return file.as_uri(), buffer


def opened(browser, section: str, number: int = 0) -> str:
    """Open an item of a list and return its text."""
    item = f"document.querySelectorAll('[data-list={section}] .list > details')[{number}]"
    browser.run(f"{item}.querySelector('summary').click()")
    browser.wait(lambda: browser.run(f"{item}.children.length > 1"))
    return browser.run(f"{item}.textContent")


def test_hostile_text_is_shown_and_never_runs(browser, tmp_path):
    write_report(tmp_path / "report.html", attacked(), title=ATTACKS[0])
    address = (tmp_path / "report.html").as_uri()
    browser.open(address, width=375)
    elements = browser.run("document.querySelectorAll('*').length")
    texts = [opened(browser, "programs", number) for number in range(12)]
    browser.run("document.querySelector('[data-list=programs] .pager button:nth-child(2)').click()")
    texts += [opened(browser, "programs", number) for number in range(12)]
    for section in ("near-misses", "tasks"):
        for number in range(len(ATTACKS)):
            opened(browser, section, number)
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert browser.run("document.title") == ATTACKS[0]
    assert browser.complaints() == []
    assert browser.requests() == [address]
    assert browser.run("document.querySelectorAll('img, iframe, object, embed, link, form, base').length") == 0
    assert browser.run("document.scripts.length") == 2
    assert browser.run("document.querySelectorAll('style').length") == 1
    assert browser.run("document.querySelectorAll('*').length") > elements
    for attack in ATTACKS[:4]:
        assert sum(attack in text for text in texts) == 3
    shown = "print('aU+0000bU+001B[31mU+202EgnirtsU+2066U+200BU+FEFFU+E0041')U+000D"
    assert sum(shown in text for text in texts) == 3
    assert sum("1,992,0" in text and "more characters are left out" in text for text in texts) == 3
    assert browser.run("document.documentElement.scrollWidth") <= 375
    hidden = r"/[\u0000-\u0008\u000b-\u001f\u200b\u202e\u2066\ufeff]/.test(document.body.textContent)"
    assert browser.run(hidden) is False


def test_a_program_found_and_opened_has_every_outcome(browser, calm):
    address, buffer = calm
    browser.open(address)
    field = "document.querySelectorAll('[data-list=programs] input')[0]"
    browser.run(f"{field}.value = 'TASK/19'; {field}.dispatchEvent(new Event('input'))")
    status = "document.querySelector('[data-list=programs] [role=status]').textContent"
    browser.wait(lambda: browser.run(status) == "1 to 3 of 3")
    text = opened(browser, "programs", 2)
    assert buffer[57].program in text
    assert "test 1: wrong answertest 2: timeout" in text
    assert "wrong_answer" not in text
    assert "task 19" in text
    assert browser.complaints() == []


def test_lists_are_filtered_sorted_and_turned(browser, calm):
    address, _ = calm
    browser.open(address)
    status = "document.querySelector('[data-list=programs] [role=status]').textContent"
    assert browser.run(status) == "1 to 12 of 60"
    browser.run("document.querySelector('[data-list=programs] .pager button:nth-child(2)').click()")
    assert browser.run(status) == "13 to 24 of 60"
    fields = "[...document.querySelectorAll('[data-list=programs] select')]"
    change = "(() => { const field = %s.at(%d); field.value = '%s'; field.dispatchEvent(new Event('change')); })()"
    browser.run(change % (fields, 0, "3"))
    browser.wait(lambda: browser.run(status) == "1 to 12 of 20")
    summaries = "[...document.querySelectorAll('[data-list=programs] .list summary')].map((one) => one.textContent)"

    def possibilities() -> list[float]:
        return [float(re.search(r"possibility (unknown|[\d.]+)drawn", text)[1]) for text in browser.run(summaries)]

    browser.run(change % (fields, -1, "possibility-up"))
    # The unknown ones come last, on the next page.
    browser.wait(
        lambda: "unknown" not in "".join(browser.run(summaries)) and possibilities() == sorted(possibilities())
    )
    # Of task/1 only, not of task/10 and its like, too.
    assert opened(browser, "tasks", 1).startswith("task/1best")
    browser.run("document.querySelector('[data-list=tasks] .list > details[open] button').click()")
    assert browser.run(status) == "1 to 3 of 3"


def test_a_near_miss_shows_both_programs_beside_or_below(browser, calm):
    address, _ = calm
    for width, beside in ((1280, True), (375, False)):
        browser.open(address, width=width)
        text = opened(browser, "near-misses")
        assert "\N{MINUS SIGN} failed" in text
        assert "-     return x + 1" in text
        assert "+     return x + 2" in text
        changed = "document.querySelector(`.diff .${one}:not(.head)`).getBoundingClientRect().top"
        tops = f"['minus', 'plus'].map((one) => {changed})"
        minus, plus = browser.run(tops)
        assert (minus == plus) is beside
        assert browser.run("document.documentElement.scrollWidth") <= width


def test_the_keyboard_alone_opens_a_program(browser, calm):
    address, _ = calm
    browser.open(f"{address}#program-4")
    focused = "document.activeElement.tagName + document.activeElement.textContent"
    browser.wait(lambda: browser.run(focused).startswith("SUMMARY"))
    assert "task/1" in browser.run(focused)
    assert browser.run("document.activeElement.parentElement.open") is True
    browser.key("Enter")
    assert browser.run("document.activeElement.parentElement.open") is False
    browser.key("Tab")
    browser.key("Enter")
    assert browser.run("document.activeElement.parentElement.open") is True


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, calm, dark):
    """At least 4.5 to 1, as WCAG 2 asks of text at level AA; 3 to 1 for what is drawn."""
    address, _ = calm
    browser.open(address, dark=dark)
    luminance = """(name) => {
        const probe = document.body.appendChild(document.createElement("i"));
        probe.style.color = `var(--${name})`;
        const parts = getComputedStyle(probe).color.match(/\\d+/g).slice(0, 3).map((part) => part / 255)
            .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    }"""

    def contrast(one: str, other: str) -> float:
        low, high = sorted(browser.run(f"({luminance})('{name}')") for name in (one, other))
        return (high + 0.05) / (low + 0.05)

    text = [("ink", "ground"), ("ink", "panel"), ("soft", "ground"), ("soft", "panel"), ("accent", "ground")]
    text += [("good", "good-ground"), ("bad", "bad-ground"), ("ink", "good-mark"), ("ink", "bad-mark")]
    for pair in [*text, ("good", "ground"), ("bad", "panel")]:
        assert contrast(*pair) >= 4.5, pair
    for name in ("mute", "accent", "good", "warm"):
        assert contrast(name, "ground") >= 3, name


def test_without_scripts_charts_and_tables_remain(browser, calm):
    address, _ = calm
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=address)
        browser.wait(lambda: "scripts are switched" in browser.run("document.body?.textContent ?? ''"))
        assert browser.run("document.querySelectorAll('figure svg').length") == 6
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
