"""Functions for the test of the guard, in a module that its child can import."""

import os
import time


def behave(page):
    if page.url == "hang":
        while True:
            time.sleep(0.01)
    if page.url == "die":
        os.abort()
    if page.url == "leave":
        os._exit(0)
    if page.url == "eat":
        return len(bytearray(1 << 31))
    if page.url == "raise":
        raise ZeroDivisionError
    if page.url == "big":
        return page.body * 50
    return page.url.upper()


def process_id(page):
    return os.getpid()
