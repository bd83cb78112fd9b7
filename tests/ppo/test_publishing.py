"""The page's way to publish an agent, against a stand-in for the Hugging Face hub on this machine."""

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from tasks import AnySpaces

from sb3_carracing import BetaPPO

pytest.importorskip("huggingface_hub")
PAGE = Path(__file__).parents[2] / "docs" / "safe_files.md"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers what an upload and a download ask for; keeps files in memory."""

    files: ClassVar[dict[str, bytes]] = {}

    def _answer(self, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self._answer({"url": f"http://{self.headers['Host']}/me/beta_ppo-CarRacing", "id": "me/beta_ppo-CarRacing"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/me/beta_ppo-CarRacing/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._answer({})

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            content = self.files[self.path.split("/resolve/")[1].split("/", 1)[1]]
            self._answer(content, ETag='"1"')
        else:
            self._answer({"id": "me/beta_ppo-CarRacing", "sha": COMMIT, "siblings": [], "private": False})

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    # It reads them when it is imported.
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "huggingface_hub"}
    for name in loaded:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    sys.modules.update(loaded)
    server.shutdown()
    server.server_close()


def code_after(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_publish_and_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: None) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "logs/beta_ppo/CarRacingFast-v3_1"
    (run / "CarRacingFast-v3").mkdir(parents=True)
    (run / "CarRacingFast-v3" / "config.yml").write_text("{gamma: 0.99}\n")
    (run / "0.monitor.csv").write_text("not to be uploaded\n")
    env = AnySpaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)))
    model = BetaPPO("MlpPolicy", env, n_steps=32, batch_size=16, device="cpu", seed=0)
    model.save(run / "CarRacingFast-v3.zip")
    exec(code_after("publish"), {})
    assert Hub.files.keys() == {"CarRacingFast-v3.zip", "CarRacingFast-v3/config.yml"}
    names: dict[str, Any] = {}
    exec(code_after("fetch"), names)
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    published, fetched = (m.predict(obs, deterministic=True)[0] for m in (model, names["model"]))
    np.testing.assert_array_equal(published, fetched)
