"""Tests of l2l_ray; a package, so that tests of several folders can share `tests.whole_run`."""
