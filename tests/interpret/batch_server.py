"""A server that speaks the batch interfaces of Anthropic and OpenAI, and chat completions, over HTTP.

It works on real batches in its own memory, counts what it would bill, and goes wrong where it is told to. The real SDKs
talk to it through `base_url`.
"""

import contextlib
import email
import email.policy
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse

KEY = "sk-planted-0123456789abcdef"
Script = Callable[[str], str]
"""From the id of a request to how it ends: `ok`, `fenced`, `comma`, `malformed`, `refusal`, `max_tokens`, `errored`,
`invalid`, `expired`, `canceled`, `missing`."""


class Trouble(NamedTuple):
    """One thing that goes wrong, once."""

    route: str
    """Beginning of `METHOD /path` that it happens to."""
    kind: str
    """`status`: the answer is an error; `drop`: the connection is cut before anything is done; `act then drop` and
    `act then status`: the same after it was done; `cut`: in the middle of the body."""
    status: int = 500
    retry_after: float | None = None


class BatchServer(ThreadingHTTPServer):
    """Begin with `start()`, end with `stop()`; `reset()` between tests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.script: Script = lambda _: "ok"
            self.troubles: list[Trouble] = []
            self.polls = 1  # looks at a batch, listed or by itself, before it has ended
            self.shuffled = False
            self.validates = True  # OpenAI: whether a batch passes its first check
            self.made = 0
            self.batches: dict[str, dict[str, Any]] = {}
            self.files: dict[str, bytes] = {}
            self.billed: Counter[str] = Counter()
            self.input_tokens = self.output_tokens = 0
            self.calls: Counter[str] = Counter()
            self.waits: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> "BatchServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""

    def trouble(self, route: str) -> Trouble | None:
        with self.lock:
            self.calls[route.split("?")[0]] += 1
            for trouble in self.troubles:
                if route.startswith(trouble.route):
                    self.troubles.remove(trouble)
                    return trouble
        return None

    def answer(self, id_: str, prompt: str) -> tuple[str, str, int, int]:
        """How a request ends, its text, and the tokens that it is billed."""
        kind = self.script(id_)
        whole = json.dumps({"explanation": meaning(id_), "certainty": 0.75})
        text = {
            "fenced": f"Key words first.\n```json\n{whole}\n```\n",
            "comma": whole[:-1] + ",}",
            "malformed": "I would rather talk.",
            "max_tokens": whole[:20],
        }.get(kind, whole)
        if kind in ("errored", "invalid", "expired", "canceled", "missing"):
            return kind, "", 0, 0
        with self.lock:
            self.billed[id_] += 1
            read, written = len(prompt) // 4, len(text) // 4
            self.input_tokens += read
            self.output_tokens += written
        return kind, text, read, written

    def create(self, lines: list[dict[str, Any]], **more: Any) -> str:
        with self.lock:
            id_ = f"batch_{self.made:04d}"
            self.made += 1
            self.batches[id_] = {"lines": lines, "looks": 0, "results": None, "valid": self.validates, **more}
            return id_

    def newest_first(self) -> list[str]:
        return list(reversed(self.batches))

    def ended(self, id_: str, *, look: bool) -> bool:
        batch = self.batches[id_]
        batch["looks"] += look
        return batch["looks"] > self.polls

    def results(self, id_: str, make: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
        """Work on a batch, once."""
        batch = self.batches[id_]
        with self.lock:
            if batch["results"] is None:
                batch["results"] = [make(line) for line in batch["lines"]]
                if self.shuffled:
                    random.Random(7).shuffle(batch["results"])
        return batch["results"]


def meaning(id_: str) -> str:
    """What the server says of a request: the latent's name, whatever the attempt."""
    return "meaning of " + id_.rsplit("-a", 1)[0]


class Handler(BaseHTTPRequestHandler):
    server: BatchServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        body = self._read()
        trouble = self.server.trouble(f"{method} {self.path}")
        kind = trouble.kind if trouble else ""
        if kind == "drop":
            return self._hang_up()
        if kind == "status":
            assert trouble
            return self._fail(trouble.status, trouble.retry_after)
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if key != KEY:
            return self._send(401, {"error": {"type": "authentication_error", "message": f"no such key: {key}"}})
        status, answer = self._route(method, urlparse(self.path), body)
        if kind == "act then drop":
            return self._hang_up()
        if kind == "act then status":
            assert trouble
            return self._fail(trouble.status, trouble.retry_after)
        return self._send(status, answer, cut=kind == "cut")

    def _route(self, method: str, url: Any, body: bytes) -> tuple[int, Any]:
        parts, query = url.path.strip("/").split("/")[1:], parse_qs(url.query)
        with self.server.lock:
            if parts[:2] == ["messages", "batches"]:
                return self._anthropic(method, parts[2:], query, body)
            if parts[0] == "chat":
                return self._chat(json.loads(body))
            return self._openai(method, parts, query, body)

    def _anthropic(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        server = self.server
        if method == "POST":
            return 200, self._message_batch(server.create(json.loads(body)["requests"]), look=False)
        if not parts:
            return 200, self._page([self._message_batch(id_, look=True) for id_ in server.newest_first()], query)
        if parts[0] not in server.batches:
            return 404, {"error": {"type": "not_found_error", "message": "no such batch"}}
        if parts[1:] == ["results"]:
            lines = [line for line in server.results(parts[0], self._message) if line]
            return 200, "".join(json.dumps(line) + "\n" for line in lines).encode()
        return 200, self._message_batch(parts[0], look=True)

    def _message_batch(self, id_: str, *, look: bool) -> dict[str, Any]:
        ended, count = self.server.ended(id_, look=look), len(self.server.batches[id_]["lines"])
        if ended:
            count = len([line for line in self.server.results(id_, self._message) if line])
        tally = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        tally["succeeded" if ended else "processing"] = count
        return {
            "id": id_,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": tally,
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-02T00:00:00Z",
            "ended_at": "2026-01-01T01:00:00Z" if ended else None,
            "results_url": f"{self.server.url}/v1/messages/batches/{id_}/results" if ended else None,
        }

    def _message(self, line: dict[str, Any]) -> dict[str, Any]:
        id_, params = line["custom_id"], line["params"]
        assert params["output_config"]["format"]["type"] == "json_schema"
        assert params["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
        kind, text, read, written = self.server.answer(id_, params["messages"][0]["content"])
        if kind == "missing":
            return {}
        if kind in ("expired", "canceled"):
            return {"custom_id": id_, "result": {"type": kind}}
        if kind in ("errored", "invalid"):
            name = "api_error" if kind == "errored" else "invalid_request_error"
            error = {"type": "error", "error": {"type": name, "message": "as told"}}
            return {"custom_id": id_, "result": {"type": "errored", "error": error}}
        message = {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": params["model"],
            "content": [] if kind == "refusal" else [{"type": "text", "text": text}],
            "stop_reason": kind if kind in ("refusal", "max_tokens") else "end_turn",
            "usage": {"input_tokens": read, "output_tokens": written},
        }
        return {"custom_id": id_, "result": {"type": "succeeded", "message": message}}

    def _openai(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        server = self.server
        if parts == ["files"]:
            id_ = f"file-{len(server.files)}"
            server.files[id_] = self._uploaded(body)
            return 200, {"id": id_, "object": "file", "bytes": len(body), "purpose": "batch", "filename": "f"}
        if parts[0] == "files":
            return 200, server.files[parts[1]]
        if method == "POST":
            asked = json.loads(body)
            lines = [json.loads(line) for line in server.files[asked["input_file_id"]].splitlines()]
            return 200, self._batch(server.create(lines, metadata=asked["metadata"]), look=False)
        if len(parts) == 1:
            return 200, self._page([self._batch(id_, look=True) for id_ in server.newest_first()], query)
        if parts[1] not in server.batches:
            return 404, {"error": {"message": "no such batch"}}
        return 200, self._batch(parts[1], look=True)

    def _uploaded(self, body: bytes) -> bytes:
        header = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(header + body, policy=email.policy.HTTP).iter_parts()
        files = [part.get_payload(decode=True) for part in parts if part.get_filename()]
        assert isinstance(files[0], bytes)
        return files[0]

    def _batch(self, id_: str, *, look: bool) -> dict[str, Any]:
        server, batch = self.server, self.server.batches[id_]
        made = {
            "id": id_,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "f",
            "completion_window": "24h",
            "created_at": 0,
            "metadata": batch["metadata"],
            "status": "in_progress",
            "request_counts": {"total": len(batch["lines"]), "completed": 0, "failed": 0},
        }
        if not server.ended(id_, look=look):
            return made
        if not batch["valid"]:
            errors = {"data": [{"code": "token_limit_exceeded", "message": "too much is under way"}], "object": "list"}
            return {**made, "status": "failed", "errors": errors}
        lines = [line for line in server.results(id_, self._completion) if line]
        good = [line for line in lines if line["error"] is None and line["response"]["status_code"] == 200]
        bad = [line for line in lines if line not in good]
        for name, part in (("output", good), ("error", bad)):
            if part:
                server.files[f"{id_}-{name}"] = "".join(json.dumps(line) + "\n" for line in part).encode()
                made[f"{name}_file_id"] = f"{id_}-{name}"
        counts = {"total": len(batch["lines"]), "completed": len(good), "failed": len(bad)}
        return {**made, "status": "completed", "request_counts": counts}

    def _completion(self, line: dict[str, Any]) -> dict[str, Any]:
        id_, body = line["custom_id"], line["body"]
        assert body["response_format"]["json_schema"]["strict"] is True
        kind, text, read, written = self.server.answer(id_, body["messages"][1]["content"])
        if kind == "missing":
            return {}
        if kind in ("expired", "canceled"):
            code = {"expired": "batch_expired", "canceled": "batch_cancelled"}[kind]
            return {"custom_id": id_, "response": None, "error": {"code": code, "message": "as told"}}
        if kind in ("errored", "invalid"):
            status = 500 if kind == "errored" else 400
            response = {"status_code": status, "body": {"error": {"message": "as told"}}}
            return {"custom_id": id_, "response": response, "error": None}
        body = self._completed(body["model"], kind, text, read, written)
        return {"custom_id": id_, "response": {"status_code": 200, "body": body}, "error": None}

    @staticmethod
    def _completed(model: str, kind: str, text: str, read: int, written: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        if kind == "refusal":
            message |= {"content": None, "refusal": "no"}
        reason = "length" if kind == "max_tokens" else "stop"
        return {
            "id": "completion",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }

    def _chat(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Chat completions carry no id of ours: the first line of the prompt stands for it."""
        id_ = body["messages"][1]["content"].splitlines()[0]
        kind, text, read, written = self.server.answer(id_, body["messages"][1]["content"])
        if kind in ("errored", "invalid", "expired", "canceled", "missing"):
            return (400 if kind == "invalid" else 500), {"error": {"message": "as told"}}
        return 200, self._completed(body["model"], kind, text, read, written)

    @staticmethod
    def _page(batches: list[dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
        """The newest first, at most three at once, so that there are pages."""
        after = query.get("after_id") or query.get("after")
        if after:
            batches = batches[[batch["id"] for batch in batches].index(after[0]) + 1 :]
        size = min(3, int(query["limit"][0]))
        page = batches[:size]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return {"object": "list", "data": page, "has_more": len(batches) > size, "first_id": first, "last_id": last}

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _fail(self, status: int, retry_after: float | None) -> None:
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self._send(status, {"error": {"type": "error", "message": f"trouble {status}"}}, headers=headers)

    def _send(self, status: int, answer: Any, *, cut: bool = False, headers: dict[str, str] | None = None) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header(
            "content-type", "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        )
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
