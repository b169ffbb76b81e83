"""A form of FastAPI with a CAPTCHA. `jensen serve --demo` in another terminal says the secret:

export CAPTCHA_SECRET=...
uvicorn --app-dir examples captcha_fastapi:app --port 5000
"""

import os
from html import escape
from typing import Annotated
from urllib.parse import urlencode

import httpx
from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse

CAPTCHA = os.environ.get("CAPTCHA", "http://127.0.0.1:8000")
SITE_KEY = os.environ.get("CAPTCHA_SITE_KEY", "demo")
SECRET = os.environ["CAPTCHA_SECRET"]
Token = Annotated[str, Form(alias="jensen-captcha-response")]
FORM = f"""<!doctype html>
<title>Sign up</title>
<form method="post" action="/">
  {{check}}
  <label>Name <input name="name" required></label>
  <button>Sign up</button>
</form>
<script src="{CAPTCHA}/widget.js" defer></script>
"""
WIDGET = f"""<noscript><p><a href="{CAPTCHA}/page?{{query}}">First do the security check</a></p></noscript>
  <div class="jensen-captcha" data-site-key="{SITE_KEY}"></div>"""
HIDDEN = """<input type="hidden" name="jensen-captcha-response" value="{token}">"""
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
def form(request: Request) -> str:
    query = urlencode({"site_key": SITE_KEY, "return_to": request.url_for("checked")})
    return FORM.format(check=WIDGET.format(query=escape(query)))


@app.post("/checked", response_class=HTMLResponse)
def checked(token: Token = "") -> str:
    """The form after the check without JavaScript, which sends its token here."""
    return FORM.format(check=HIDDEN.format(token=escape(token)))


@app.post("/")
async def sign_up(token: Token = "") -> str:
    if not await solved(token):
        raise HTTPException(400, "Read the picture again, please.")
    return "Welcome."
