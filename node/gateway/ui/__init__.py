"""The web page of the exchange: its files, and the headers that limit its rights in the browser.

    files         the files under `static/`, read once, by their path
    page          serves them with a Content-Security-Policy; lets the page of one member speak to the other members
    static/       the page itself: ES modules and style sheets, without a build step

`docs/ui.md` describes the page. Its files are public. Its data comes from the same calls that any client may use.
"""
