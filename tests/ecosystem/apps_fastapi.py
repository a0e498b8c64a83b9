"""A FastAPI application with some of everything that FastAPI and Starlette have of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from facts import facts
from fastapi import BackgroundTasks, Depends, FastAPI, File, UploadFile, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from support import digest, payload

HERE = Path(__file__).parent


class Order(BaseModel):
    name: str
    count: int


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"done": []}


async def starlette_facts(_request: Request) -> JSONResponse:
    return JSONResponse(facts())


app = FastAPI(
    lifespan=lifespan,
    routes=[
        Mount("/static", StaticFiles(directory=HERE)),
        Mount("/plain", routes=[Route("/facts", starlette_facts)]),
    ],
)


@app.middleware("http")
async def mark(request: Request, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-middleware"] = "was here"
    return response


@app.get("/facts")
async def get_facts() -> dict[str, Any]:
    return facts()


@app.post("/order")
async def post_order(order: Order) -> dict[str, Any]:
    return {"name": order.name.upper(), "count": order.count + 1}


def in_a_thread() -> str:
    """A dependency that blocks: FastAPI calls it in a thread."""
    return threading.current_thread().name


@app.get("/blocking")
def blocking(dependency: Annotated[str, Depends(in_a_thread)]) -> dict[str, Any]:
    return {"threads": [dependency, threading.current_thread().name], "main": threading.main_thread().name}


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    content = await file.read()
    return {"name": file.filename, "digest": digest(content)}


@app.get("/download")
async def download(size: int) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        data = payload(size)
        for at in range(0, size, 50_000):
            await asyncio.sleep(0)
            yield data[at : at + 50_000]

    return StreamingResponse(parts())


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(__file__)


@app.get("/later")
async def later(request: Request, tasks: BackgroundTasks) -> list[str]:
    done: list[str] = request.state.done
    tasks.add_task(done.append, "async" if asyncio.get_running_loop() else "")
    return list(done)


@app.websocket("/ws")
async def websocket(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws.iter_json():
        await ws.send_json({"sum": sum(message)})
