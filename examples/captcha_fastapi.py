"""A form of FastAPI with a CAPTCHA. `jensen serve --demo` in another terminal says the secret:

export CAPTCHA_SECRET=...
uvicorn --app-dir examples captcha_fastapi:app --port 5000
"""

import os
from typing import Annotated

import httpx
from fastapi import FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse

CAPTCHA = os.environ.get("CAPTCHA", "http://127.0.0.1:8000")
SITE_KEY = os.environ.get("CAPTCHA_SITE_KEY", "demo")
SECRET = os.environ["CAPTCHA_SECRET"]
FORM = f"""<!doctype html>
<title>Sign up</title>
<form method="post">
  <label>Name <input name="name" required></label>
  <div class="jensen-captcha" data-site-key="{SITE_KEY}"></div>
  <button>Sign up</button>
</form>
<script src="{CAPTCHA}/widget.js" defer></script>
"""
app = FastAPI()


async def solved(token: str) -> bool:
    """Whether the visitor has solved the CAPTCHA; no, if the service cannot be asked."""
    async with httpx.AsyncClient(timeout=5) as client:
        try:
            answer = await client.post(f"{CAPTCHA}/siteverify", data={"secret": SECRET, "response": token})
            return answer.json()["success"]
        except (httpx.HTTPError, ValueError):
            return False


@app.get("/", response_class=HTMLResponse)
def form() -> str:
    return FORM


@app.post("/")
async def sign_up(token: Annotated[str, Form(alias="jensen-captcha-response")] = "") -> str:
    if not await solved(token):
        raise HTTPException(400, "Read the picture again, please.")
    return "Welcome."
