"""Parts of captcha_study.py: what is drawn and kept, the four measurements, and the page."""
