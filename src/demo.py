"""A page on which one drops, pastes or draws a picture, and sees the model's answer.

`make demo` serves it on http://127.0.0.1:8000, for this machine alone. No picture is stored, and the page
may load nothing from any other address.
"""

import argparse
import asyncio
import base64
import ctypes
import io
import re
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from common import image_folder
from common.errors import InputError

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from inference.classifier import Classifier

HOST = "127.0.0.1"
ELSEWHERE = {"error": "requests must come from the page of this program; received one from elsewhere"}
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
PAGE = Path(__file__).parent / "inference/demo.html"
CLASSES = 10  # in an answer, at most
MAX_BYTES = 20_000_000  # of a picture
SMALL, LARGE_UPLOADS = 1_000_000, 4  # bytes; so many pictures of more bytes are taken at a time
CONNECTIONS = 100
SECONDS = 10  # in which a request must have come, and so must a picture
HEADERS = {  # which make the browser refuse any other address
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Connection": "close",  # so a connection has one request, and what is left of a refused one ends
}


class Protocol(H11Protocol):
    """HTTP that drops a connection on which no request comes; uvicorn waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(SECONDS, lambda: self.cycle or self.transport.abort())  # type: ignore[func-returns-value]


def from_elsewhere(request: Request) -> bool:
    """Whether another site asks, also one whose host name leads to this machine (DNS rebinding)."""
    asked, host = request.headers, request.headers.get("host", "")
    own = OWN_HOST.fullmatch(host) and asked.get("origin", f"http://{host}") == f"http://{host}"
    return not own or asked.get("sec-fetch-site", "none") not in ("same-origin", "none")


def make_app(classifier: Classifier) -> Starlette:
    """GET / is the page; POST /predict takes the bytes of a picture and answers in JSON."""
    page = PAGE.read_text("utf-8")
    large, turn = asyncio.Semaphore(LARGE_UPLOADS), asyncio.Lock()

    async def show(request: Request) -> Response:
        return JSONResponse(ELSEWHERE, 403) if from_elsewhere(request) else HTMLResponse(page)

    async def predict(request: Request) -> Response:
        if from_elsewhere(request):
            return JSONResponse(ELSEWHERE, 403)
        content = io.BytesIO()
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(SECONDS):
                    async for chunk in request.stream():
                        if content.tell() <= SMALL < content.tell() + len(chunk):
                            await held.enter_async_context(large)
                        if content.tell() <= MAX_BYTES:  # browsers show no answer before they have sent all
                            content.write(chunk)
            except (TimeoutError, ClientDisconnect):
                return JSONResponse({"error": f"the picture must come within {SECONDS} s; received a part of it"}, 408)
            if content.tell() > MAX_BYTES:
                return JSONResponse({"error": f"the picture must have at most {MAX_BYTES:,} bytes; received more"}, 413)
            async with turn:  # one picture is unpacked at a time
                if await request.is_disconnected():
                    return Response(status_code=408)  # that nobody waits for
                return await run_in_threadpool(answer_to, content, classifier)

    return Starlette(routes=[Route("/", show), Route("/predict", predict, methods=["POST"])])


def answer_to(content: BinaryIO, classifier: Classifier) -> JSONResponse:
    """The model's input, as a data URL, and its answer, for the page."""
    try:
        prediction = classifier.predict(content, "the picture", CLASSES)
    except InputError as error:  # here, since asyncio would keep it, and with it the picture
        return JSONResponse({"error": str(error)}, 400)
    picture = image_folder.to_picture(prediction.image)
    picture.save(png := io.BytesIO(), "PNG")
    answer = {
        "input": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}",
        "size": f"{picture.width} × {picture.height}",
        "classes": [{"name": name, "probability": probability} for name, probability in prediction.likeliest],
        "out_of_distribution": prediction.out_of_distribution,
    }
    return JSONResponse(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/model.onnx"), help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any (default: %(default)s)")
    chosen = parser.parse_args()
    if not 0 <= chosen.port < 65536:
        raise InputError(f"--port must be between 0 and 65535; received {chosen.port}")
    with suppress(AttributeError):  # of another C library than glibc
        # glibc would keep the memory of every picture; -3 is M_MMAP_THRESHOLD, which it would raise by itself
        ctypes.CDLL(None).mallopt(-3, 1 << 20)
    app = make_app(Classifier(chosen.model))
    config = uvicorn.Config(
        app, http=Protocol, ws="none", limit_concurrency=CONNECTIONS, headers=[*HEADERS.items()], log_level="error"
    )
    with socket.create_server((HOST, chosen.port)) as listening:
        print(f"http://{HOST}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
