"""The reference-count rule that zedmanager and baseosmgr share, over all of its few facts."""

import itertools

import pytest

from pillar.refcount import leaving, staying, wanted_refcount
from pillar.types.downloader import DownloaderStatus
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus

KEPT = DownloaderStatus()
EXPIRED = VerifyImageStatus(Expired=True)


@pytest.mark.parametrize("status", [None, KEPT, EXPIRED])
@pytest.mark.parametrize(("published", "known"), list(itertools.product([True, False], repeat=2)))
def test_as_many_references_as_users(status, published, known):
    assert wanted_refcount(3, status, published=published, status_known=known) == 3


@pytest.mark.parametrize("published", [True, False])
def test_an_unused_object_is_kept_with_refcount_0_until_its_worker_offers_it_up(published):
    assert wanted_refcount(0, KEPT, published=published) == 0
    assert wanted_refcount(0, EXPIRED, published=published) is None


@pytest.mark.parametrize("published", [True, False])
def test_no_config_for_what_nobody_uses_and_no_worker_has(published):
    assert wanted_refcount(0, None, published=published) is None


def test_nothing_is_withdrawn_before_the_worker_was_heard():
    assert wanted_refcount(0, None, published=True, status_known=False) == 0
    assert wanted_refcount(0, None, published=False, status_known=False) is None


def test_an_expired_object_is_leaving_unless_somebody_refers_to_it():
    assert leaving(EXPIRED, None)
    assert leaving(EXPIRED, VerifyImageConfig())
    assert not leaving(EXPIRED, VerifyImageConfig(RefCount=1))
    assert not leaving(KEPT, None)
    assert leaving(DownloaderStatus(PendingDelete=True), VerifyImageConfig(RefCount=1))
    assert list(staying({"a": KEPT, "b": EXPIRED}, {})) == ["a"]
