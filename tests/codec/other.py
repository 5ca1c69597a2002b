"""An alias of a generic model of another module."""

from codec.generic import Item, Page

Pages = Page[Page[Item]]
