"""The zoo: broken backward rules with the check that must catch each, and right but unusual ones.

Every animal is a function, sample arguments, and options of `check_rule`. `BROKEN` and `RIGHT`
list them; they are also what other checkers are compared on.
"""

from tests.support import zoo_broken, zoo_right
from tests.support.zoo_base import BROKEN, RIGHT, Animal

__all__ = ["BROKEN", "RIGHT", "Animal", "zoo_broken", "zoo_right"]
