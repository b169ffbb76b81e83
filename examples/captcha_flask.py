"""A form of Flask with a CAPTCHA. `jensen serve --demo` in another terminal says the secret:

export CAPTCHA_SECRET=...
flask --app examples/captcha_flask run --port 5000
"""

import json
import os
from urllib.parse import urlencode
from urllib.request import urlopen

from flask import Flask, render_template_string, request, url_for

CAPTCHA = os.environ.get("CAPTCHA", "http://127.0.0.1:8000")
SITE_KEY = os.environ.get("CAPTCHA_SITE_KEY", "demo")
SECRET = os.environ["CAPTCHA_SECRET"]
FORM = """<!doctype html>
<title>Sign up</title>
<form method="post" action="/">
  {% if token %}
  <input type="hidden" name="jensen-captcha-response" value="{{ token }}">
  {% else %}
  <noscript><p><a href="{{ captcha }}/page?{{ check|urlencode }}">First do the security check</a></p></noscript>
  {% endif %}
  <label>Name <input name="name" required></label>
  {% if not token %}<div class="jensen-captcha" data-site-key="{{ check.site_key }}"></div>{% endif %}
  <button>Sign up</button>
</form>
<script src="{{ captcha }}/widget.js" defer></script>
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
def form(token=""):
    check = {"site_key": SITE_KEY, "return_to": url_for("checked", _external=True)}
    return render_template_string(FORM, captcha=CAPTCHA, check=check, token=token)


@app.post("/checked")  # with Flask-WTF: @csrf.exempt
def checked():
    """The form after the check without JavaScript, which sends its token here."""
    return form(request.form.get("jensen-captcha-response", ""))


@app.post("/")
def sign_up():
    if not solved(request.form.get("jensen-captcha-response", "")):
        return "Read the picture again, please.", 400
    return "Welcome."
