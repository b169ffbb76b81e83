"""A form of Flask with a CAPTCHA. `jensen serve --demo` in another terminal says the secret:

export CAPTCHA_SECRET=...
flask --app examples/captcha_flask run --port 5000
"""

import json
import os
from urllib.parse import urlencode
from urllib.request import urlopen

from flask import Flask, request

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
app = Flask(__name__)


def solved(token):
    """Whether the visitor has solved the CAPTCHA; no, if the service cannot be asked."""
    form = urlencode({"secret": SECRET, "response": token}).encode()
    try:
        with urlopen(f"{CAPTCHA}/siteverify", form, timeout=5) as answer:
            return json.load(answer)["success"]
    except (OSError, ValueError):
        return False


@app.get("/")
def form():
    return FORM


@app.post("/")
def sign_up():
    if not solved(request.form.get("jensen-captcha-response", "")):
        return "Read the picture again, please.", 400
    return "Welcome."
