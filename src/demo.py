"""A page on which one drops, pastes or draws a picture, and sees the model's answer.

`make demo` serves it on http://127.0.0.1:8000, for this machine alone. No picture is stored, and the page
may load nothing from any other address.
"""

import argparse
import base64
import io
import socket
from pathlib import Path

from common import image_folder
from common.errors import InputError

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from inference.classifier import Classifier

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "inference/demo.html"
MAX_BYTES = 20_000_000  # of a picture
HEADERS = {  # which make the browser refuse any other address
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(classifier: Classifier) -> Starlette:
    """GET / is the page; POST /predict takes the bytes of a picture and answers in JSON."""
    page = PAGE.read_text("utf-8")

    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    async def predict(request: Request) -> JSONResponse:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BYTES:
                return refusal(f"the picture must have at most {MAX_BYTES:,} bytes; received more", 413)
        try:
            answer = await run_in_threadpool(answer_to, bytes(content), classifier)
        except InputError as error:
            return refusal(str(error), 400)
        return JSONResponse(answer, headers=HEADERS)

    return Starlette(
        routes=[Route("/", show), Route("/predict", predict, methods=["POST"])],
        # another host name that leads to this machine is another site's attack (DNS rebinding)
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def refusal(reason: str, status: int) -> JSONResponse:
    return JSONResponse({"error": reason}, status, HEADERS)


def answer_to(content: bytes, classifier: Classifier) -> dict[str, object]:
    """The model's input, as a data URL, and its answer, for the page."""
    prediction = classifier.predict(io.BytesIO(content), "the picture")
    png = io.BytesIO()
    picture = image_folder.to_picture(prediction.image)
    picture.save(png, "PNG")
    return {
        "input": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}",
        "size": f"{picture.width} × {picture.height}",
        "classes": [{"name": name, "probability": probability} for name, probability in prediction.likeliest],
        "out_of_distribution": prediction.out_of_distribution,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/model.onnx"))
    parser.add_argument("--port", type=int, default=8000, help="0: any (default: %(default)s)")
    chosen = parser.parse_args()
    if not 0 <= chosen.port < 65536:
        raise InputError(f"--port must be between 0 and 65535; received {chosen.port}")
    app = make_app(Classifier(chosen.model))
    with socket.create_server((HOST, chosen.port)) as listening:
        print(f"http://{HOST}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
