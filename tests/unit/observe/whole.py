"""A page that is made in steps, at once."""

from kdaemon.observe.slices import Page, Steps


def whole(steps: Steps) -> Page:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            page: Page = end.value
            return page
