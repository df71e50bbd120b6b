"""The page in a real browser: Debian's chromium, driven by Playwright, on a real cluster. Skipped where there is no
chromium.
"""
