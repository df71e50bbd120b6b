"""The web page of the exchange: its files, and what the browser is allowed to do with them.

    files         the files under `static/`, read once, by their path
    page          serves them with a Content-Security-Policy; lets the page of one member speak to the other members
    static/       the page itself: ES modules and style sheets, without a build step

`docs/ui.md` describes the page. Its text is public; what a reader sees on it comes from the same calls that any client
may make.
"""
