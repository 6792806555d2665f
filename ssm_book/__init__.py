"""What the pages of the book need beside the library ``ssm_core``.

======================  ====================================================================
``ssm_book.data``       signals, real data, synthetic tasks, stored measurements: all offline
``ssm_book.figures``    one look for every figure
``ssm_book.widgets``    figures that compute in the page, without a kernel
``ssm_book.exercises``  the checks behind the exercises
======================  ====================================================================

``ssm_book`` imports ``ssm_core``, never the other way. Both come in one installation.
"""
