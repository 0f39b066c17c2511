"""The page in a real, headless Chromium; see README.md beside this.

    python3 tests/page/test_page.py --screenshots target/page

Most of it runs against `fake_server.py`, which says what no model can be made to say. With LYCEUM=target/release/lyceum (or --lyceum) the same
page is also driven against the real program on a model of tests/fixtures, or, with --url, against a server that already runs.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import fake_server

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "crates/serve/page"
MODEL = ROOT / "tests/fixtures/models/qwen3_moe_bpe"
DESKTOP, PHONE = (1280, 860), (390, 844)
PATIENCE = 60  # seconds until something that must happen counts as failed; a busy machine is slow

options = None  # the command line's


def browser(size=DESKTOP, scheme="light"):
    chromium = webdriver.ChromeOptions()
    chromium.binary_location = options.chromium
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
                     "--disable-component-update", "--no-first-run"]:
        chromium.add_argument(argument)
    chromium.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=chromium, service=webdriver.ChromeService(options.chromedriver))
    resize(driver, size)
    paint(driver, scheme)
    return driver


def resize(driver, size):
    """A window may not be as small as a phone; an emulated one may."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE})


def paint(driver, scheme):
    """Lets the system prefer light or dark."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


class PageTest(unittest.TestCase):
    """What the tests of both servers share: a fresh page in one browser."""

    scheme = "light"

    @classmethod
    def setUpClass(cls):
        cls.driver = browser(scheme=cls.scheme)
        cls.addClassCleanup(cls.driver.quit)

    def open(self, view="", server=None):
        self.driver.get("about:blank")
        self.driver.get(f"{server or self.url}/{view}")
        self.until(lambda: self.find("#model-name").text or self.text(".notice, #key-dialog"), "the page asks the server for its model")

    def setUp(self):
        resize(self.driver, DESKTOP)
        paint(self.driver, self.scheme)
        self.driver.get(f"{self.url}/assets/icon.svg")
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.driver.get_log("browser")
        self.open()

    def tearDown(self):
        complaints = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        # Chromium itself reports each answer of 4xx; everything else (a refused script, an exception) is the page's fault.
        complaints = [text for text in complaints if "the server responded with a status of" not in text and "favicon.ico" not in text]
        self.assertEqual(complaints, [])

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return " ".join(element.text for element in self.all(selector))

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, what):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                result = condition()
            except StaleElementReferenceException:  # replaced while it was looked at
                result = None
            if result:
                return result
            time.sleep(0.02)
        self.fail(f"within {PATIENCE} s it did not happen that {what}")

    def send(self, text):
        field = self.find("#message")
        field.send_keys(text)
        field.send_keys(Keys.ENTER)

    def is_writing(self):
        return self.find("#send").get_attribute("aria-label") == "Stop"

    def answered(self, text):
        before = len(self.all(".answer:not(:empty)"))
        self.send(text)
        self.until(lambda: len(self.all(".answer:not(:empty)")) > before and not self.is_writing(), "an answer comes and ends")
        return self.all(".answer")[-1]

    def sideways(self):
        """How far the page, or any of its scrolling parts, can be pushed to the side."""
        return self.js("return Math.max(...[document.documentElement, document.body, ...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth))")

    def shoot(self, name):
        if options.screenshots:
            time.sleep(0.15)  # a frame or two, for what fades in
            self.driver.save_screenshot(str(options.screenshots / f"{name}.png"))


class WithFake(PageTest):
    @classmethod
    def setUpClass(cls):
        cls.server = fake_server.Server(("127.0.0.1", 0))
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)
        cls.url = f"http://127.0.0.1:{cls.server.server_port}"
        super().setUpClass()

    def setUp(self):
        self.server.requests.clear()
        super().setUp()


class Chat(WithFake):
    def test_a_message_is_answered_piece_by_piece(self):
        self.shoot("welcome")
        self.send("slow please")
        lengths = set()
        self.until(lambda: lengths.add(len(self.text(".answer"))) or len(lengths) > 5, "the text grows several times while it streams")
        self.assertTrue(self.is_writing())
        self.assertEqual(self.text(".bubble"), "slow please")
        self.assertEqual(self.find(".assistant").get_attribute("aria-busy"), "true")
        self.shoot("streaming")

    def test_figures_stand_under_the_answer(self):
        self.answered("a tour")
        self.assertRegex(self.text(".assistant .figures"),
                         r"^\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ m?s · 16 of 20 prompt tokens cached · 12 speculated$")
        tokens = int(self.text(".assistant .figures").split()[0])
        self.assertEqual(tokens, len(fake_server.pieces(fake_server.TOUR)))
        body = self.server.requests[-1]
        self.assertEqual((body["stream"], body["stream_options"]), (True, {"include_usage": True}))
        self.assertIn("End of the answer", self.js("return document.getElementById('status').textContent"))

    def test_stop_ends_the_stream_and_keeps_what_came(self):
        for stop in (lambda: self.find("#send").click(), lambda: self.find("#message").send_keys(Keys.ESCAPE)):
            self.open()
            departed = self.server.departed
            self.send("slow please")
            self.until(lambda: "word word" in self.text(".answer"), "some of the answer comes")
            stop()
            self.until(lambda: not self.is_writing(), "the answer stops")
            self.assertIn("stopped", self.text(".assistant .figures"))
            self.assertIn("word word", self.text(".answer"))
            self.until(lambda: self.server.departed > departed, "the server sees that the client left")
            self.find("#new-chat").click()

    def test_retry_replaces_the_answer(self):
        self.answered("echo one")
        self.find(".assistant [aria-label=Retry]").click()
        self.until(lambda: len(self.server.requests) == 2 and not self.is_writing(), "a second answer comes")
        first, second = self.server.requests
        self.assertEqual(first, second)
        self.assertEqual(len(self.all(".message")), 2)

    def test_edit_asks_anew_from_there(self):
        self.answered("echo one")
        self.answered("echo two")
        self.find(".user [aria-label=Edit]").click()
        field = self.find(".edit textarea")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys("echo three")
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        self.until(lambda: len(self.server.requests) == 3 and not self.is_writing(), "the edited message is answered")
        self.assertEqual(self.server.requests[-1]["messages"], [{"role": "user", "content": "echo three"}])
        self.assertEqual(self.text(".bubble"), "echo three")

    def test_conversation_goes_on_and_survives_a_reload(self):
        self.answered("echo one")
        self.open()
        self.assertEqual(self.text(".bubble"), "echo one")
        self.answered("echo two")
        roles = [message["role"] for message in self.server.requests[-1]["messages"]]
        self.assertEqual(roles, ["user", "assistant", "user"])
        # U+2028 does not end a line of an event stream.
        self.assertEqual(self.server.requests[-1]["messages"][1]["content"], "echo one\u2028after a line separator")
        self.find("#new-chat").click()
        self.assertEqual(self.all(".message"), [])
        self.open()
        self.assertEqual(self.all(".message"), [])

    def test_shift_enter_makes_a_line(self):
        field = self.find("#message")
        field.send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
        self.assertEqual(field.get_property("value"), "one\ntwo")
        self.assertEqual(self.server.requests, [])
        field.send_keys(Keys.ENTER)
        self.until(lambda: self.server.requests, "it is sent")
        self.assertEqual(self.server.requests[0]["messages"][0]["content"], "one\ntwo")

    def test_settings_are_sent_and_remembered(self):
        self.answered("echo plain")
        self.assertEqual(set(self.server.requests[-1]) & {"temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"}, set())
        self.find("#open-settings").click()
        wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7, "max_tokens": 64}
        for name, value in wanted.items():
            self.find(f"[name={name}]").send_keys(str(value))
        self.find("[name=system]").send_keys("Be brief.")
        self.shoot("settings")
        self.find("[name=temperature]").send_keys(Keys.ESCAPE)
        self.open()
        self.answered("echo two")
        body = self.server.requests[-1]
        self.assertEqual({name: body.get(name) for name in wanted}, wanted)
        self.assertEqual(body["messages"][0], {"role": "system", "content": "Be brief."})
        self.find("#open-settings").click()
        self.find("#settings button[type=reset]").click()
        self.open()
        self.answered("echo three")
        self.assertEqual(set(self.server.requests[-1]) & set(wanted), set())

    def test_help_opens_by_key(self):
        self.find("#message").send_keys(Keys.CONTROL, "/")
        self.assertTrue(self.find("#help").is_displayed())
        self.shoot("help")
        self.find("#help").send_keys(Keys.ESCAPE)
        self.assertFalse(self.find("#help").is_displayed())


class Markdown(WithFake):
    def test_markdown_becomes_elements(self):
        answer = self.answered("a tour")
        self.shoot("markdown")
        shown = self.js("""const a = arguments[0];
            return { strong: a.querySelector('strong').textContent, code: a.querySelector('p code').textContent, items: a.querySelectorAll(':scope > ol > li').length,
                nested: a.querySelectorAll('li li').length, cells: [...a.querySelectorAll('td')].map(e => e.textContent), quote: a.querySelector('blockquote').textContent,
                block: a.querySelector('pre').textContent, keyword: a.querySelector('.keyword').textContent,
                links: [...a.querySelectorAll('a')].map(e => [e.href, e.rel, e.target]) }""", answer)
        self.assertEqual(shown["strong"], "mixture of experts")
        self.assertEqual(shown["code"], "router")
        self.assertEqual((shown["items"], shown["nested"]), (3, 2))
        self.assertEqual(shown["cells"], ["attention", "55B", "all", "experts", "1.8T", "2 of 16"])
        self.assertEqual(shown["quote"], "What is not computed costs nothing but memory.")
        self.assertEqual(shown["block"], fake_server.TOUR.split("```")[1].removeprefix("rust\n").removesuffix("\n"))
        self.assertEqual(shown["keyword"], "fn")
        rel = "noopener noreferrer nofollow"
        self.assertEqual(shown["links"], [["https://arxiv.org/abs/2401.04088", rel, "_blank"], ["https://example.org/report", rel, "_blank"]])

    def test_nothing_a_model_writes_runs(self):
        answer = self.answered("attack")
        self.shoot("attack")
        self.assertIsNone(self.js("return window.attacked ?? null"))
        names = set(self.js("return [...arguments[0].querySelectorAll('*')].map(e => e.localName)", answer))
        self.assertEqual(names & {"script", "img", "iframe", "style", "object", "embed", "form", "input", "link"}, set())
        attributes = set(self.js("return [...arguments[0].querySelectorAll('*')].flatMap(e => e.getAttributeNames())", answer))
        self.assertEqual({name for name in attributes if name.startswith("on")} | (attributes & {"style", "srcdoc", "src"}), set())
        addresses = self.js("return [...arguments[0].querySelectorAll('a')].map(e => e.href)", answer)
        self.assertEqual(addresses, ["https://example.org/pixel.png", "https://example.org/page", "mailto:someone@example.org"])
        text = self.js("return arguments[0].textContent", answer)
        for shown in ["<script>window.attacked = 1</script>", '<img src=x onerror="window.attacked = 2">', "javascript:window.attacked=6", "<style>", "The end."]:
            self.assertIn(shown, text)

    def render(self, text):
        """The HTML that Markdown becomes, as the browser writes it down."""
        return self.driver.execute_async_script("""const done = arguments[1];
            import('./assets/markdown.js').then(({ showMarkdown }) => {
                const div = document.createElement('div');
                showMarkdown(div, arguments[0]);
                done(div.innerHTML);
            }, error => done(String(error)))""", text)

    def test_rules_of_commonmark(self):
        # Expected values are those of the CommonMark specification's reference implementation, where the page follows it.
        for text, html in {
            "a *b* c": "<p>a <em>b</em> c</p>",
            "***a***": "<p><strong><em>a</em></strong></p>",
            "snake_case_name and 2 * 3 * 4": "<p>snake_case_name and 2 * 3 * 4</p>",
            "`` a`b ``": "<p><code>a`b</code></p>",
            "\\*a\\* \\\\": "<p>*a* \\</p>",
            "**open": "<p>**open</p>",
            "# a #": '<h3 class="level-1">a</h3>',
            "#no": "<p>#no</p>",
            "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
            "- a\n\n- b": "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
            "- a\n  - b\n- c": "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>",
            "- a\n\nb": "<ul><li>a</li></ul><p>b</p>",
            "a\n1987. b": "<p>a\n1987. b</p>",
            "***": "<hr>",
            "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
            "<b>a</b>": "<p>&lt;b&gt;a&lt;/b&gt;</p>",
            "&lt;script&gt;": "<p>&amp;lt;script&amp;gt;</p>",
            "a  \nb\\\nc": "<p>a  <br>b<br>c</p>",
        }.items():
            with self.subTest(text=text):
                self.assertEqual(self.render(text), html)

    def test_code_and_text_keep_every_character(self):
        for text in ["fn f<'a>(x: &'a str) -> char { 'x' } // c", "s = 'it' # c\n\"\"\"doc", "`unclosed", "let s = \"a\\\"b", "\t  x\n\n\ny  "]:
            for language in ["rust", "python", "html", "sql", "", "constructor"]:
                with self.subTest(text=text, language=language):
                    shown = self.driver.execute_async_script("""const done = arguments[2];
                        import('./assets/code.js').then(({ highlight }) => done(highlight(arguments[0], arguments[1]).textContent))""", text, language)
                    self.assertEqual(shown, text)

    def test_a_text_that_grows_is_shown_as_the_whole_would_be(self):
        self.driver.set_script_timeout(PATIENCE)
        differing = self.driver.execute_async_script("""const done = arguments[1];
            import('./assets/markdown.js').then(({ showMarkdown }) => {
                const grown = document.createElement('div');
                for (let end = 0; end <= arguments[0].length; end++) {
                    showMarkdown(grown, arguments[0].slice(0, end));
                    const whole = document.createElement('div');
                    showMarkdown(whole, arguments[0].slice(0, end));
                    if (grown.innerHTML !== whole.innerHTML) return done(end);
                }
                done(null);
            }, error => done(String(error)))""", fake_server.TOUR + fake_server.ATTACK)
        self.assertIsNone(differing)

    def test_hostile_texts_are_shown_in_time(self):
        # Each of these takes minutes where the work is quadratic or worse, or overflows a stack.
        self.driver.set_script_timeout(PATIENCE)
        n = 50_000
        for text in [">" * n, "- " * n, "[" * n, "*a " * n, "**a" * n, "`" * n, "_" * n + "a", "#" * n + " x", "|" * n + "\n" + "|-" * n, "a" + " " * n + "b",
                     "<" * n, "https://" * n, "![" * n, "[a](" * n, "-" + " " * n + "x", "```" + " " * n + "`", "\n".join("`" * (i % 300) + "a" for i in range(3000)),
                     "\n".join(" " * i + "- a" for i in range(300)), "~~a" * n, "\\" * n]:
            with self.subTest(text=text[:20]):
                html = self.render(text)
                self.assertNotIn("Error", html[:100])


class Completion(WithFake):
    def test_a_text_is_continued(self):
        self.open("#complete")
        self.find("#complete-example").click()
        given = self.find("#prefix").get_property("value")
        self.find("#complete-go").click()
        self.until(lambda: self.find("#complete-keep").is_displayed(), "the completion ends")
        self.shoot("continue")
        self.assertEqual(self.js("return document.getElementById('result').textContent"), given + fake_server.CODE)
        self.assertEqual(self.js("return document.querySelector('#result mark').textContent"), fake_server.CODE)
        self.assertRegex(self.text("#complete-figures"), r"tokens · [\d.]+ tokens/s · first after")
        body = self.server.requests[-1]
        self.assertEqual((body["prompt"], "suffix" in body, "messages" in body), (given, False, False))
        self.find("#complete-keep").click()
        self.assertEqual(self.find("#prefix").get_property("value"), given + fake_server.CODE)

    def test_a_gap_is_filled(self):
        self.open("#complete")
        self.js("document.querySelector('[value=fill]').click()")
        self.find("#complete-example").click()
        before, after = (self.find(name).get_property("value") for name in ("#prefix", "#suffix"))
        self.find("#prefix").send_keys(Keys.CONTROL, Keys.ENTER)
        self.until(lambda: self.find("#complete-keep").is_displayed(), "the completion ends")
        self.shoot("fill")
        body = self.server.requests[-1]
        self.assertEqual((body["prompt"], body["suffix"]), (before, after))
        self.assertEqual(self.js("return document.getElementById('result').textContent"), before + fake_server.GAP + after)
        self.find("#complete-retry").click()
        self.until(lambda: len(self.server.requests) == 2, "it is asked again")


    def test_a_model_that_cannot_chat_or_fill_gaps(self):
        server = fake_server.Server(("127.0.0.1", 0), model={"chat": False, "fill_in_the_middle": False})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.open(server=f"http://127.0.0.1:{server.server_port}")
        self.until(lambda: self.find("#complete").is_displayed(), "the page shows what the model can do")
        self.assertFalse(self.find("[value=fill]").is_enabled())
        self.find(".top [href='#chat']").click()
        self.assertIn("no chat template", self.text("#welcome-about"))


class Errors(WithFake):
    def test_errors_are_sentences(self):
        for prompt, said in {
            "busy": "The queue is full. Try again in 2 s.",
            "breaks": "Logits were not finite.",
            "leaves": "The connection ended before the answer was complete.",
        }.items():
            with self.subTest(prompt=prompt):
                self.send(prompt)
                self.until(lambda: said in self.text(".notice"), f"it says: {said}")
                self.find("#new-chat").click()

    def test_without_a_template_the_text_can_be_continued(self):
        self.send("no template here")
        self.until(lambda: self.all(".notice button"), "there is a way out")
        self.shoot("no_template")
        self.find(".notice button").click()
        self.assertTrue(self.find("#complete").is_displayed())
        self.assertEqual(self.find("#prefix").get_property("value"), "no template here")

    def test_a_question_without_an_answer_is_not_sent_again(self):
        self.send("busy")
        self.until(lambda: self.all(".notice"), "it is refused")
        self.answered("echo one")
        self.assertEqual(self.server.requests[-1]["messages"], [{"role": "user", "content": "echo one"}])
        self.assertEqual(len(self.all(".message")), 2)

    def test_a_key_is_asked_for(self):
        server = fake_server.Server(("127.0.0.1", 0), key="secret")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.open(server=f"http://127.0.0.1:{server.server_port}")
        self.until(lambda: self.find("#key-dialog").is_displayed(), "it asks for a key")
        self.shoot("key")
        self.find("#key").send_keys("wrong", Keys.ENTER)
        self.until(lambda: self.find("#key-dialog").is_displayed(), "it asks again")
        self.find("#key").send_keys("secret", Keys.ENTER)
        self.until(lambda: self.find("#model-name").text == "fake-mixture", "the model is known")
        self.answered("echo one")
        self.assertNotIn("secret", self.js("return JSON.stringify(localStorage)"))

    def test_a_server_that_is_gone(self):
        server = fake_server.Server(("127.0.0.1", 0))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.open(server=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        server.server_close()
        self.send("hello")
        self.until(lambda: "cannot be reached" in self.text(".notice"), "it says so")
        self.driver.get_log("browser")  # Chromium reports the refused connection.


class Engine(WithFake):
    def test_plots_are_drawn(self):
        self.open("#engine")
        self.until(lambda: len(self.all("path.line")) > 0 and all(e.get_attribute("d") for e in self.all("#plots path")), "every plot has a shape")
        self.until(lambda: "tokens/s" in self.text(".tile:first-child b"), "there is a rate, which takes two readings")
        titles = [element.text for element in self.all("#plots h3")]
        for title in ["Tokens per second", "Requests", "KV blocks", "Batch", "Step time", "Time to first token", "Between tokens", "Speculation", "Expert load"]:
            self.assertIn(title, titles)
        time.sleep(4)  # curves of a few seconds
        self.shoot("engine")
        self.js("document.querySelector('#engine .scroll').scrollTop = 1e6")
        self.shoot("engine_below")
        canvas = self.find("canvas")
        self.assertEqual((canvas.get_property("width"), canvas.get_property("height")), (16, 8))
        pixel = lambda layer, expert: self.js("return [...arguments[0].getContext('2d').getImageData(arguments[2], arguments[1], 1, 1).data]", canvas, layer, expert)
        self.assertEqual(pixel(3, 5), [22, 104, 179, 255], "an expert without tokens has the colour of idleness")
        self.assertIn("1 expert had no token", self.text("#plots"))

    def test_figures_are_the_engines(self):
        self.open("#engine")
        figures = self.driver.execute_async_script("""const done = arguments[0];
            import('./assets/live.js').then(({ quantile, readSnapshot, since, History, rate }) => {
                const histogram = { bounds: [1, 2, 4], counts: [10, 10, 20, 0] };
                const history = new History();
                for (const [uptime, tokens_out] of [[10, 100], [11, 120], [12, 160], [3, 1]]) {
                    history.add(readSnapshot({ uptime, tokens_out }));
                    if (history.snapshots.length === 3) var rates = history.changes(rate(now => now.tokensOut));
                }
                done({ quantiles: [0.25, 0.5, 0.75, 1].map(part => quantile(histogram, part)), beyond: quantile({ bounds: [1], counts: [0, 5] }, 0.5),
                    none: quantile({ bounds: [1], counts: [0, 0] }, 0.5), since: since(histogram, { bounds: [1, 2, 4], counts: [1, 2, 3, 0] }).counts,
                    rates, restarted: history.snapshots.length });
            })""")
        self.assertEqual(figures["quantiles"], [1, 2, 3, 4])
        self.assertEqual((figures["beyond"], figures["none"]), (1, None))
        self.assertEqual(figures["since"], [9, 8, 17, 0])
        self.assertEqual(figures["rates"], [None, 20, 40])
        self.assertEqual(figures["restarted"], 1)

    def test_the_server_is_asked_only_while_someone_looks(self):
        asked = lambda: self.js("return performance.getEntriesByType('resource').filter(e => e.name.endsWith('/api/live')).length")
        self.assertEqual(asked(), 0)
        self.js("location.hash = '#engine'")
        self.until(lambda: asked() >= 2, "it is asked again and again")
        self.js("location.hash = '#chat'")
        time.sleep(1.2)
        before = asked()
        time.sleep(2.2)
        self.assertEqual(asked(), before)


class Docs(WithFake):
    def test_the_description_is_shown(self):
        self.driver.get(f"{self.url}/docs")
        self.until(lambda: self.all("#operations details"), "operations are listed")
        self.assertIsNone(self.js("return window.attacked ?? null"))
        self.find("#operations summary").click()
        self.assertIn("Makes a thing", self.text("#operations"))
        self.find("#operations a[href='#schema-Thing']").click()
        self.until(lambda: self.find("#schema-Thing").get_attribute("open"), "the link opens the object")
        cells = [element.text for element in self.all("#schema-Thing td")]
        self.assertEqual(cells, ["name required", "string", "What it is called.", "parts", "list of Thing or null", "", "colour", 'null or "red", "blue"', ""])
        self.shoot("docs")
        resize(self.driver, PHONE)
        self.assertEqual(self.sideways(), 0)


class Looks(WithFake):
    def test_no_width_scrolls_sideways(self):
        self.answered("a tour")
        for width in (320, 390, 768, 1280):
            for view in ("#chat", "#complete", "#engine"):
                resize(self.driver, (width, 844))
                self.open(view)
                if view == "#engine":
                    self.until(lambda: self.all("path.line"), "it draws")
                with self.subTest(width=width, view=view):
                    self.assertEqual(self.sideways(), 0)

    def test_on_a_phone(self):
        resize(self.driver, PHONE)
        self.open()
        self.shoot("phone_welcome")
        self.answered("a tour")
        self.shoot("phone_chat")
        composer = self.find("#composer").rect
        self.assertLessEqual(composer["y"] + composer["height"], PHONE[1])
        self.find("#open-settings").click()
        self.shoot("phone_settings")
        self.open("#complete")
        self.shoot("phone_complete")
        self.open("#engine")
        self.until(lambda: "tokens/s" in self.text(".tile:first-child b"), "it draws")
        self.shoot("phone_engine")

    def test_dark_follows_the_system_and_the_button(self):
        paper = lambda: self.js("return getComputedStyle(document.body).backgroundColor")
        light = paper()
        paint(self.driver, "dark")
        dark = paper()
        self.assertNotEqual(light, dark)
        self.answered("a tour")
        self.shoot("dark_chat")
        self.open("#engine")
        self.until(lambda: "tokens/s" in self.text(".tile:first-child b"), "it draws")
        time.sleep(3)
        self.shoot("dark_engine")
        self.find("#change-theme").click()
        self.assertEqual((self.find("#change-theme").get_attribute("aria-label"), paper()), ("Theme: light", light))
        self.open()
        self.assertEqual(paper(), light, "it is remembered")
        paint(self.driver, "light")
        self.find("#change-theme").click()
        self.assertEqual((self.find("#change-theme").get_attribute("aria-label"), paper()), ("Theme: dark", dark))

    def test_words_can_be_read_on_their_ground(self):
        """WCAG's contrast of 4.5 for text, in both themes."""
        for theme in ("light", "dark"):
            paint(self.driver, theme)
            self.open()
            poor = self.js("""
                const numbers = (colour) => { const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
                    c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };
                const light = (colour) => { const [r, g, b] = numbers(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                const probe = document.body.appendChild(document.createElement('p'));
                const value = (name, property = 'color') => { probe.style[property] = `var(--${name})`; return light(getComputedStyle(probe)[property]); };
                const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                const pairs = [...['ink', 'faint', 'accent', 'bad'].flatMap(ink => ['paper', 'card'].map(ground => [ink, ground])),
                    ...['comment', 'string', 'number', 'keyword', 'call'].flatMap(ink => ['card', 'tint'].map(ground => [ink, ground])),
                    ['ink', 'tint'], ['ink', 'soft'], ['faint', 'soft'], ['faint', 'bad-tint'], ['ink', 'bad-tint'], ['on-accent', 'accent']];
                return pairs.map(([ink, ground]) => [ink, ground, contrast(value(ink), value(ground))]).filter(([, , ratio]) => ratio < 4.5);""")
            self.assertEqual(poor, [], theme)


class Files(unittest.TestCase):
    def test_no_file_parses_markup_or_reaches_outside(self):
        for file in PAGE.iterdir():
            text = file.read_text()
            with self.subTest(file=file.name):
                forbidden = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|eval|new Function)\b|\bon\w+=|<style|\bstyle="
                self.assertEqual(re.findall(forbidden, text) if file.suffix in (".js", ".html") else [], [])
                # The namespace of SVG is a name, not an address that anyone fetches.
                self.assertEqual([url for url in re.findall(r"https?://[\w.-]+", text) if url != "http://www.w3.org"], [])


class RealServer(PageTest):
    """The program itself, with a small model of random weights: it says nothing of sense, through everything that a real one takes."""

    @classmethod
    def setUpClass(cls):
        if options.url:
            cls.url = options.url.rstrip("/")
        elif options.lyceum:
            cls.url = cls.start(Path(options.lyceum).resolve())
        else:
            raise unittest.SkipTest("neither LYCEUM (--lyceum) nor --url is given")
        super().setUpClass()

    @classmethod
    def start(cls, program):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen([program, "serve", str(options.model), "--host", "127.0.0.1", "--port", str(port)])
        cls.addClassCleanup(process.wait, timeout=PATIENCE)
        cls.addClassCleanup(process.send_signal, signal.SIGTERM)
        url = f"http://127.0.0.1:{port}"
        for _ in range(PATIENCE * 10):
            if process.poll() is not None:
                raise AssertionError(f"{program} serve ended with status {process.returncode}")
            try:
                urllib.request.urlopen(f"{url}/ready")
                return url
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise AssertionError(f"{program} serve is not ready within {PATIENCE} s")

    def set(self, **settings):
        self.js("localStorage.setItem('lyceum.settings', JSON.stringify(arguments[0]))", {name: str(value) for name, value in settings.items()})
        self.open()

    def test_a_message_streams_and_stops(self):
        # The small model writes faster than anyone can press a key: a slow line holds it up.
        self.driver.set_network_conditions(latency=50, download_throughput=3000, upload_throughput=100_000)
        self.addCleanup(self.driver.delete_network_conditions)
        self.send("Tell me a story")
        lengths = set()
        self.until(lambda: lengths.add(len(self.text(".answer"))) or len(lengths) > 4, "the text grows several times while it streams")
        self.assertTrue(self.is_writing())
        self.find("#message").send_keys(Keys.ESCAPE)
        self.until(lambda: not self.is_writing(), "it stops")
        self.assertRegex(self.text(".assistant .figures"), r"first after .*stopped")
        self.shoot("real_stopped")

    def test_the_same_seed_gives_the_same_answer(self):
        self.set(max_tokens=48, seed=3, temperature=1)
        first = self.answered("Hello")
        before = self.js("return (window.first = arguments[0]).textContent", first)
        self.assertTrue(before)
        self.assertRegex(self.text(".assistant .figures"), r"^\d+ tokens? .*first after")
        self.find(".assistant [aria-label=Retry]").click()
        self.until(lambda: self.js("return !window.first.isConnected") and not self.is_writing(), "it comes anew and ends")
        self.assertEqual(self.js("return document.querySelector('.answer').textContent"), before)
        self.shoot("real_chat")

    def test_a_text_is_continued(self):
        self.open("#complete")
        self.find("#prefix").send_keys("fn main() {")
        self.find("#complete-go").click()
        self.until(lambda: self.find("#complete-go").text == "Complete" and self.find("#complete-figures").text, "the completion ends")
        self.assertEqual(self.all("#complete-error .notice"), [])
        self.assertTrue(self.js("return document.querySelector('#result mark').textContent"))
        self.shoot("real_continue")

    def test_the_engine_is_drawn(self):
        self.set(max_tokens=64)
        self.answered("Hello")
        self.open("#engine")
        self.until(lambda: "tokens/s" in self.text(".tile:first-child b"), "there are two readings")
        self.assertEqual(self.all("#engine-notice .notice"), [])
        live = json.load(urllib.request.urlopen(f"{self.url}/api/live"))
        self.assertGreater(live["totals"]["steps"], 0)
        self.assertRegex(self.text("#tiles"), r"[1-9]\d* tokens so far")
        self.assertIn("of ", self.text("#tiles"))
        for plot in ("Batch", "Step time"):
            path = self.js("return [...document.querySelectorAll('#plots figure')].find(f => f.querySelector('h3').textContent === arguments[0]).querySelector('path').getAttribute('d')", plot)
            self.assertIn("V", path, f"{plot} has bars")
        if any(live.get("expert_tokens", [])):
            self.assertTrue(self.find("canvas").is_displayed())
        self.shoot("real_engine")


def main():
    global options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of what was tested, to look at")
    parser.add_argument("--lyceum", default=os.environ.get("LYCEUM"), help="the built program, to be tested too")
    parser.add_argument("--url", help="a server that runs already, instead of --lyceum")
    parser.add_argument("--model", type=Path, default=MODEL, help="what --lyceum serves")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--chromedriver", default="/usr/bin/chromedriver")
    options, rest = parser.parse_known_args()
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
