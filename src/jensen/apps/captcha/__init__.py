"""A CAPTCHA service that a site can run: pictures from a pool, answers checked once, tokens redeemed once.

It needs the extra `serve`; `jensen serve` starts it.
"""
