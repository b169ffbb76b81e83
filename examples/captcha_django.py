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
from django.views.decorators.csrf import csrf_exempt

CAPTCHA = os.environ.get("CAPTCHA", "http://127.0.0.1:8000")
SITE_KEY = os.environ.get("CAPTCHA_SITE_KEY", "demo")
SECRET = os.environ["CAPTCHA_SECRET"]
FORM = """<!doctype html>
<title>Sign up</title>
<form method="post" action="/">
  {% if token %}
  <input type="hidden" name="jensen-captcha-response" value="{{ token }}">
  {% else %}
  <noscript><p><a href="{{ captcha }}/page?{{ check }}">First do the security check</a></p></noscript>
  {% endif %}
  {% csrf_token %}{{ form }}
  {% if not token %}<div class="jensen-captcha" data-site-key="{{ site_key }}"></div>{% endif %}
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


def page(request, form, token=""):
    check = urlencode({"site_key": SITE_KEY, "return_to": request.build_absolute_uri("/checked")})
    shown = {"form": form, "captcha": CAPTCHA, "site_key": SITE_KEY, "check": check, "token": token}
    text = engines["django"].from_string(FORM).render(shown, request)
    return HttpResponse(text, status=400 if form.is_bound else 200)


def sign_up(request):
    form = SignUp(request.POST or None)
    return HttpResponse("Welcome.") if form.is_valid() else page(request, form)


@csrf_exempt
def checked(request):
    """The form after the check without JavaScript, which sends its token here."""
    return page(request, SignUp(), request.POST.get("jensen-captcha-response", ""))


urlpatterns = [path("", sign_up), path("checked", checked)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
