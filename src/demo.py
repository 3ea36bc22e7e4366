"""A page on this machine where one drops, pastes or draws a picture and sees what the model says.

`make demo` serves it on http://127.0.0.1:8000, for this machine alone; nothing is kept, and the page
may load nothing from anywhere else.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import base64
import io
import socket
from pathlib import Path

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from common.errors import InputError
from inference.classifier import Classifier

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "inference/demo.html"
LARGEST = 20_000_000  # bytes of a picture
HEADERS = {  # the browser itself refuses any other address
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
            if len(content) > LARGEST:
                return refusal(
                    f"the picture must have at most {LARGEST:,} bytes; received more", 413
                )
        try:
            answer = await run_in_threadpool(answer_to, bytes(content), classifier)
        except InputError as error:
            return refusal(" ".join(str(error).splitlines()), 400)
        return JSONResponse(answer, headers=HEADERS)

    return Starlette(
        routes=[Route("/", show), Route("/predict", predict, methods=["POST"])],
        # other names that lead to this machine are another site's: https://owasp.org, DNS rebinding
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def refusal(reason: str, status: int) -> JSONResponse:
    return JSONResponse({"error": reason}, status, HEADERS)


def answer_to(content: bytes, classifier: Classifier) -> dict[str, object]:
    """What the page shows: the image that the model saw, as a data URL, and what it says."""
    prediction = classifier.predict(io.BytesIO(content), "the picture")
    image, png = prediction.image, io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(png, "PNG")
    return {
        "seen": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}",
        "size": f"{image.shape[1]} × {image.shape[0]}",
        "classes": [
            {"name": name, "probability": probability} for name, probability in prediction.likeliest
        ],
        "unlike": prediction.unlike,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
