"""A CAPTCHA service that a site can run: pictures from a pool, answers checked once, tokens redeemed once.

Install it with `pip install jensen[serve]` and start it with `jensen serve`.
"""
