"""scikit-learn's own checks of an estimator, of which none is expected to fail."""

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from funcnet.sklearn import NetClassifier, NetRegressor

QUICK = {
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_estimator_cloneable",
    "check_estimators_unfitted",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_sample_weight_equivalence_on_dense_data",
    "check_set_params",
}


def all_checks():
    """What `parametrize_with_checks` does, whose generator pytest 9 refuses in scikit-learn 1.6."""
    for net in (NetClassifier(), NetRegressor()):
        for estimator, check in estimator_checks_generator(net):
            name = check.func.__name__
            marks = () if name in QUICK else pytest.mark.slow
            yield pytest.param(estimator, check, marks=marks, id=f"{estimator}-{name}")


@pytest.mark.integration
@pytest.mark.parametrize(("estimator", "check"), list(all_checks()))
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)
