"""A form of Django with a CAPTCHA. `jensen serve --demo` in another terminal says the secret:

export CAPTCHA_SECRET=...
python examples/captcha_django.py runserver --noreload 5000
"""

import json
import os
import secrets
import sys
from urllib.parse import urlencode
from urllib.request import urlopen

from django import forms
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.template import engines
from django.urls import path

CAPTCHA = os.environ.get("CAPTCHA", "http://127.0.0.1:8000")
SITE_KEY = os.environ.get("CAPTCHA_SITE_KEY", "demo")
SECRET = os.environ["CAPTCHA_SECRET"]
FORM = """<!doctype html>
<title>Sign up</title>
<form method="post">
  {% csrf_token %}{{ form }}
  <div class="jensen-captcha" data-site-key="{{ site_key }}"></div>
  <button>Sign up</button>
</form>
<script src="{{ captcha }}/widget.js" defer></script>
"""
settings.configure(
    SECRET_KEY=secrets.token_hex(32),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)


def solved(token):
    """Whether the visitor has solved the CAPTCHA; no, if the service cannot be asked."""
    form = urlencode({"secret": SECRET, "response": token}).encode()
    try:
        with urlopen(f"{CAPTCHA}/siteverify", form, timeout=5) as answer:
            return json.load(answer)["success"]
    except (OSError, ValueError):
        return False


class SignUp(forms.Form):
    name = forms.CharField()

    def clean(self):
        if not solved(self.data.get("jensen-captcha-response", "")):
            raise forms.ValidationError("Read the picture again, please.")


def sign_up(request):
    form = SignUp(request.POST or None)
    if form.is_valid():
        return HttpResponse("Welcome.")
    shown = {"form": form, "captcha": CAPTCHA, "site_key": SITE_KEY}
    page = engines["django"].from_string(FORM).render(shown, request)
    return HttpResponse(page, status=400 if form.is_bound else 200)


urlpatterns = [path("", sign_up)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
