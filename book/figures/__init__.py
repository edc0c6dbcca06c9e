"""The figures of the book: functions that take data and return a matplotlib Figure."""

from figures.contents import register

register()
