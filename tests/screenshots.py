"""Pictures of the pages for docs/serve.md: `python tests/screenshots.py`, from the root of the repository."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from browser import chromium, visit
from captcha_service import listening, settings
from jensen.apps.captcha import demo
from jensen.apps.captcha.pool import Pool, Trained, speaker
from jensen.runs.opening import open_run

OUT = Path(__file__).resolve().parents[1] / "docs" / "serve"
PHONE, DESK = {"width": 360, "height": 700}, {"width": 760, "height": 640}
SITES = {demo.SITE: {"secret": "ac66114bd5a08c8db42e2d7c1ba59a88", "hostnames": ["127.0.0.1"]}}
PICTURES = {  # what it is called: the address, the screen, the colours
    "phone-light": ("/?lang=en", PHONE, "light"),
    "phone-dark": ("/?lang=de", PHONE, "dark"),
    "phone-persian": ("/?lang=fa", PHONE, "light"),
    "desk-light": ("/?lang=en", DESK, "light"),
    "desk-dark": (f"/page?site_key={demo.SITE}&lang=en", DESK, "dark"),
}


def main() -> int:
    """Write every picture in few colours, with CAPTCHAs of the model that is part of jensen."""
    OUT.mkdir(exist_ok=True)
    drawer = Trained(open_run(Path(demo.RUN)))
    with (
        TemporaryDirectory() as place,
        listening(Path(place), pictures=0, sites=SITES, demo=True) as (address, store),
        chromium() as browser,
    ):
        pool = Pool(drawer, store, chosen := settings(Path(place)), speaker(chosen, drawer.texts.alphabet))
        while store.waiting()[0] < len(PICTURES):
            pool.add(8)
        for name, (path, screen, colours) in PICTURES.items():
            with visit(browser, viewport=screen, color_scheme=colours, device_scale_factor=2) as visitor:
                visitor.page.goto(address + path)
                visitor.page.get_by_role("img").wait_for()
                taken = Image.open(BytesIO(visitor.page.screenshot(full_page=True))).convert("RGB")
            taken.quantize(64).save(OUT / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
