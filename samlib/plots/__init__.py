"""The figures of the book: functions that take data and return a matplotlib Figure."""

from samlib.plots.contents import register

register()
