"""zedmanager: take every app from its configuration to RUNNING, by asking the other agents for one thing after another.

It orchestrates only: nothing is downloaded, hashed, plumbed or started here.

Subscribes  AppInstanceConfig   from zedagent          the apps that should be
            DownloaderStatus    from downloader        (scope appImg.obj, by image)  how far each fetch got
            VerifyImageStatus   from verifier          (scope appImg.obj, by image)  whether the content is right
            CertObjStatus       from baseosmgr         certificates of signed images
            EIDStatus, EIDError from identitymanager   (by app and instance id)
            AppNetworkStatus    from zedrouter
            DomainStatus        from domainmgr
            GlobalConfig        of the device          disk reserve, ports that cost money, log level
Publishes   AppInstanceStatus   by app                 what became of it, and our ledger
            DownloaderConfig    (scope appImg.obj)     by image, shared by the apps that use it
            VerifyImageConfig   (scope appImg.obj)     likewise
            EIDConfig, AppNetworkConfig, DomainConfig  per app
            ImageRetry          by image               images fetched again because their content was wrong
            UuidToNum           persistent, by app     the last purge counter that was carried out
Owns        nothing but these tables

    do_update    do_install  -> do_prepare -> do_activate        images; EIDs, disk, network; domain
    do_remove    do_inactivate -> do_unprepare -> do_uninstall   the same, backwards

    DOWNLOAD_STARTED -> DOWNLOADED -> DELIVERED -> INSTALLED -> BOOTING -> RUNNING -> HALTING -> HALTED
    and over these, while one is under way, RESTARTING and PURGING

How it decides. `decide(facts)` is a pure function of what the tables say now, of one app: its config, its last status,
what the other agents answered, what is published for it. It returns the status and everything this app wants
published. There are no events in it, so a lost, merged or doubled one cannot leave an app stuck, and deciding again
changes nothing. A stage that cannot go on names whom it waits for; if no answer comes, the app's Error says so.

How it publishes. The status goes first: it says which images this app refers to (HasDownloaderRef, HasVerifierRef)
and how far a restart or purge got, so a kill between any two writes leaves a ledger from which the same decision
follows again. On the way out the status goes last. What the apps share is counted from those flags over all statuses,
each time (pillar/refcount.py); EVE adds and subtracts, and drifts upward when zedmanager is restarted.

Restart: the tables are read, nothing is decided before each table that exists has been loaded once, and then every app
and image is decided as ever. A config that was changed or deleted meanwhile is compared with the status, which
EVE would overwrite. EVE also waits for verifier's `restarted`, because it acts on each VerifyImageStatus as it comes,
and a verified image seen too late was downloaded again; here the table is loaded before anything is decided, and an
image that turns up verified later is simply taken from then on. An app is never removed while zedagent's
table has not been read.

What apps share. One download and one verification per name and content, with as many references as uses. Content
that is verified already is taken whatever its name; a signature is never taken on trust, so apps that name different
ones are verified apart (images.verify_name). Wrong content is fetched again, three times in all (refetch).

Modules: facts (what goes in and out), changes (config against ledger), images and install, prepare, activate, domain,
report (state and error), decide (the flow), phase (one name for where an app is), references and refetch (what apps
share), disk and tables (the world), agent (the shell).
"""
