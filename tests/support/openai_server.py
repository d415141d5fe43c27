"""An OpenAI-style server over a tiny model on loopback, with faults on demand.

It answers `/v1/completions` and `/v1/chat/completions` as vLLM does: `n`, `max_tokens`, `temperature`, `seed`, `stop`,
`logit_bias`, `logprobs` of the model (not of the temperature) with the end token, `usage` and `finish_reason`.
"""

import contextlib
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from trl_pper import ServerSource


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request: an error status, a reply cut in the middle, or one that comes late."""

    status: int = 200
    headers: dict = field(default_factory=dict)
    cut: bool = False
    late_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A completion as the model wrote it."""

    prompt_ids: list
    token_ids: list
    logprobs: list


class OpenAIServer(ThreadingHTTPServer):
    """Serves `model`; what a test sets here decides how badly."""

    daemon_threads = True

    def __init__(self, model, tokenizer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model, tokenizer
        self.address = f"http://127.0.0.1:{self.server_port}/v1"
        self.faults = defaultdict(list)  # by prompt: one for each request that has one coming
        self.refuses = {}  # field -> message of the 400
        self.most_stops = 99
        self.sends_logprobs = True
        self.most_choices = 99
        self.edit = lambda reply: reply  # the last word on a reply
        self.key = None
        self.late_seconds = 0.0  # of every reply
        self.dies_after = None  # requests; then it breaks every connection
        self.asked = []  # (path, body), in order of arrival
        self.served = []
        self.at_work = self.most_at_work = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def prompts(self):
        return [body.get("prompt") or body["messages"][-1]["content"] for _, body in self.asked]

    @property
    def is_dead(self):
        return self.dies_after is not None and len(self.asked) >= self.dies_after

    def verify_request(self, request, client_address):
        return not self.is_dead

    def handle_error(self, request, client_address):
        pass  # a client that gave up on a late reply

    def answer(self, path, body):
        chat = path.endswith("/chat/completions")
        prompt = "".join(message["content"] for message in body["messages"]) if chat else body["prompt"]
        prompt_ids = self.tokenizer(prompt)["input_ids"]
        with self.lock:  # one model, one random generator of torch
            served = self.write(prompt_ids, body)
            self.served += served
        wants = self.sends_logprobs and body.get("logprobs")
        choices = [self.choice(index, one, body, chat, wants) for index, one in enumerate(served)]
        counts = {"prompt_tokens": len(prompt_ids), "completion_tokens": sum(len(one.token_ids) for one in served)}
        return {"object": "chat.completion" if chat else "text_completion", "choices": choices, "usage": counts}

    @torch.no_grad()
    def write(self, prompt_ids, body):
        n = min(body.get("n", 1), self.most_choices)
        if n == 0:
            return []
        generator = torch.Generator().manual_seed(body.get("seed", len(self.served)))
        bias = torch.zeros(self.model.config.vocab_size)
        for token, value in body.get("logit_bias", {}).items():
            bias[int(token)] = value
        rows = torch.tensor([prompt_ids] * n)
        steps = []
        for _ in range(body["max_tokens"]):
            logprobs = self.model(input_ids=rows).logits[:, -1].log_softmax(-1)
            if body["temperature"] == 0:
                tokens = (logprobs + bias).argmax(-1, keepdim=True)
            else:
                chances = ((logprobs + bias) / body["temperature"]).softmax(-1)
                tokens = torch.multinomial(chances, 1, generator=generator)
            steps.append(torch.cat([tokens, logprobs.gather(-1, tokens)], dim=-1).double())
            rows = torch.cat([rows, tokens], dim=-1)
        served = []
        for row in torch.stack(steps, dim=1).tolist():
            ids = [int(token) for token, _ in row]
            end = self.tokenizer.eos_token_id
            length = ids.index(end) + 1 if end in ids else len(ids)
            logprobs = [logprob for _, logprob in row[:length]]
            served.append(Served(prompt_ids=prompt_ids, token_ids=ids[:length], logprobs=logprobs))
        return served

    def choice(self, index, one, body, chat, wants):
        text = self.tokenizer.decode(one.token_ids, skip_special_tokens=True)
        stopped = one.token_ids[-1] == self.tokenizer.eos_token_id
        for stop in body.get("stop", []):
            if stop in text:
                text, stopped = text[: text.index(stop)], True
        tokens = self.tokenizer.convert_ids_to_tokens(one.token_ids)
        if not wants:
            logprobs = None
        elif chat:
            pairs = zip(tokens, one.logprobs, strict=True)
            logprobs = {"content": [{"token": token, "logprob": logprob} for token, logprob in pairs]}
        else:
            logprobs = {"tokens": tokens, "token_logprobs": one.logprobs}
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        reason = "stop" if stopped else "length"
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            if server.is_dead:
                self.close_connection = True
                return
            server.asked.append((self.path, body))
            faults = server.faults[server.prompts()[-1]]
            fault = faults.pop(0) if faults else Fault()
            server.at_work += 1
            server.most_at_work = max(server.most_at_work, server.at_work)
        try:
            self.reply(fault, body)
        finally:
            with server.lock:
                server.at_work -= 1

    def reply(self, fault, body):
        server = self.server
        if server.closing.wait(fault.late_seconds or server.late_seconds):
            self.close_connection = True
            return
        refused = [
            message for name, message in server.refuses.items() if name in body and (name, body[name]) != ("n", 1)
        ]
        if len(body.get("stop", [])) > server.most_stops:
            refused.append(
                f"Invalid 'stop': array too long. Expected an array with maximum length {server.most_stops}"
            )
        authorization = self.headers.get("Authorization")
        if server.key is not None and authorization != f"Bearer {server.key}":
            self.send(401, {"error": {"message": f"Incorrect API key provided: {authorization}"}}, fault)
        elif not self.path.startswith("/v1/"):
            self.send(404, {"error": {"message": "Not Found"}}, fault)
        elif refused:
            self.send(400, {"error": {"message": refused[0]}}, fault)
        elif fault.status != 200:
            self.send(fault.status, {"error": {"message": "injected"}}, fault)
        else:
            self.send(200, server.edit(server.answer(self.path, body)), fault)

    def send(self, status, reply, fault):
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault.cut else content)
        self.close_connection = fault.cut

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(model, tokenizer):
    """Serve on a free port until the block ends."""
    with OpenAIServer(model, tokenizer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def source_of(*servers, **options):
    """Return a source of short programs that waits for next to nothing."""
    defaults = {"model": "tiny", "num_programs": 2, "max_completion_length": 4, "backoff_seconds": 0.001, "seed": 0}
    return ServerSource([server.address for server in servers], **{**defaults, **options})
