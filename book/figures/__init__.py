"""The figures of the book: functions that take data and return a matplotlib Figure."""

import matplotlib.pyplot as plt

from figures.contents import register

register()
# Loaded now and not by the first figure: a notebook's backend turns interactive mode on, and the
# first figure is made inside a style context, whose end would turn it off for all later figures.
plt.switch_backend(plt.get_backend())
