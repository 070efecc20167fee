"""ComfyUI's own frontend in a headless Chromium: load workflows, queue them, take pictures.

Needs the playwright package and an installed Chromium (CHROMIUM names it where PATH does not).
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

READY = """() => window.app?.graph && window.app.extensionManager
  && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 50"""

INSPECT = """() => {
  const known = window.LiteGraph.registered_node_types;
  const all = (graph) => (graph._nodes ?? graph.nodes ?? []).flatMap(
    (n) => n.subgraph ? [n, ...all(n.subgraph)] : [n]);
  const nodes = all(window.app.graph);
  return {
    nodes: nodes.length,
    unknown: nodes.filter((n) => !n.subgraph && !known[n.type]).map((n) => n.type),
    faulty: nodes.filter((n) => n.has_errors).map((n) => n.title),
    small: nodes.filter((n) => n.size[1] < n.computeSize()[1] - 1)
      .map((n) => [n.title, n.size[1], n.computeSize()[1]]),
    dialogs: [...document.querySelectorAll('[role=dialog], [data-testid=error-overlay]')]
      .filter((e) => e.offsetParent !== null).map((e) => e.innerText.slice(0, 400)),
  };
}"""

LISTEN = """() => {
  const end = window.__end = {};
  const api = window.app.api ?? window.comfyAPI.api.api;
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    api.addEventListener(kind, (e) => { end.kind ??= kind; end.detail ??= e.detail; });
}"""

ONE_NODE = """([kind, widgets]) => {
  window.app.graph.clear();
  const node = window.LiteGraph.createNode(kind);
  window.app.graph.add(node);
  for (const widget of node.widgets ?? [])
    if (widget.name in widgets) {
      if (widget.options?.values) widget.options.values = [widgets[widget.name]];
      widget.value = widgets[widget.name];
    }
  node.has_errors = false;
  node.setSize([Math.max(node.size[0], 340), node.computeSize()[1]]);
}"""

SHOW_NODE = """([title, x, y]) => {
  const node = window.app.graph._nodes.find((n) => n.title === title || n.type === title);
  const canvas = window.app.canvas;
  canvas.ds.scale = 1;
  canvas.ds.offset = [x - node.pos[0], y - node.pos[1]];
  canvas.deselectAll?.();
  canvas.links_render_mode = -1;  // no lines across it
  window.app.graph._groups.length = 0;  // nor a group's title
  canvas.setDirty(true, true);
  return [...node.size];
}"""

SELECT = """(type) => {
  const canvas = window.app.canvas;
  canvas.deselectAll?.();
  canvas.selectNode(window.app.graph._nodes.find((n) => n.type === type));
}"""


class Frontend:
    """One page for many workflows: loading it is what takes long."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(str(error)[:300]))
        page.goto(url, wait_until="domcontentloaded", timeout=900_000)
        page.wait_for_function(READY, timeout=900_000)
        page.wait_for_timeout(1500)
        self.version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__ ?? ''")
        page.evaluate(LISTEN)

    def load(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Open a workflow; what is wrong with it at a glance."""
        self.page.keyboard.press("Escape")  # what the last workflow may have brought up
        self.page.evaluate("async (w) => { await window.app.loadGraphData(w); }", workflow)
        self.page.wait_for_timeout(800)
        return self.page.evaluate(INSPECT)

    def add_node(self, kind: str, widgets: dict[str, Any]) -> None:
        """Open one node alone, with these widgets changed."""
        self.page.evaluate(ONE_NODE, [kind, widgets])
        self.page.wait_for_timeout(500)

    def fit(self) -> None:
        """Zoom until the whole workflow is in view."""
        run = "async () => { await window.app.extensionManager.command.execute('%s'); }"
        self.page.evaluate(run % "Comfy.Canvas.FitView")
        self.page.wait_for_timeout(1000)

    def prompt(self) -> dict[str, Any]:
        """API form of what is open, as the frontend makes it; of `_meta` only the titles."""
        prompt = self.page.evaluate("async () => (await window.app.graphToPrompt()).output")
        for entry in prompt.values():
            entry["_meta"] = {"title": entry["_meta"]["title"]}  # newer ones add the pack's name
            if entry["class_type"] == "PreviewAny":
                entry["inputs"].pop("preview", None)  # older ones send what it shows
        return prompt

    def queue(self, timeout: float = 600) -> dict[str, Any]:
        """Run what is open; the event that ended it."""
        self.page.evaluate("() => { for (const key in window.__end) delete window.__end[key]; }")
        self.page.evaluate("async () => { await window.app.queuePrompt(0); }")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            end = self.page.evaluate("() => window.__end")
            if end.get("kind"):
                self.page.wait_for_timeout(1500)
                return end
            self.page.wait_for_timeout(300)
        return {"kind": "timeout"}

    def help_of(self, kind: str) -> None:
        """Open the help page of the first node of that type."""
        self.page.evaluate(SELECT, kind)
        self.page.locator("[data-testid=info-button]").first.click(timeout=60_000)

    def shot(self, path: Path) -> None:
        """The whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), timeout=300_000)

    def shot_of_node(self, title: str, path: Path, margin: int = 12) -> None:
        """One node, at full size, as it stands."""
        width, height = self.page.evaluate(SHOW_NODE, [title, 400, 160])
        self.page.wait_for_timeout(800)
        head = 56  # title bar, and the pack's name above it
        area = {"x": 400 - margin, "y": 160 - head, "width": width + 2 * margin,
                "height": height + head + margin}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), clip=area, timeout=300_000)


@contextlib.contextmanager
def frontend(
    url: str, size: tuple[int, int] = (2000, 1120), settings: dict[str, Any] | None = None
) -> Iterator[Frontend]:
    """A page on a running server; settings hold for this browser only."""
    chromium = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    wanted = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, **(settings or {})}

    def answer(route):
        if route.request.method != "GET":
            return route.fallback()
        given = route.fetch()
        return route.fulfill(response=given, json={**given.json(), **wanted})

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, timeout=600_000,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run"],
            viewport={"width": size[0], "height": size[1]},
        )  # fmt: skip
        context.set_default_timeout(600_000)
        page = context.pages[0] if context.pages else context.new_page()
        page.route("**/settings", answer)
        yield Frontend(page, url)
        context.close()
