"""The checks behind the exercises: each ``check_…`` takes an answer and says what is wrong with it.

A check accepts any right answer, compares it with an independent truth, raises ``AssertionError``
with an explanation where the answer is wrong, and prints one line where it is right. There is one
module a chapter.
"""
