#!/bin/sh
# Run by udhcpc at every event: writes down what the DHCP server said. nim reads it and does the rest, so it does not
# matter whether nim lives at the moment. $PILLAR_NIM_LEASE names the file: replaced by rename, gone when the lease is.
file=$PILLAR_NIM_LEASE
case $1 in
bound | renew)
    # What a server may fill with any text comes last: a line that it smuggles in changes none above.
    {
        echo "client=$PPID"
        echo "obtained=$(cut -d ' ' -f 1 /proc/uptime)"
        echo "seconds=$lease"
        echo "address=$ip"
        echo "prefix=$mask"
        echo "routers=$router"
        echo "dns=$dns"
        echo "ntp=$ntpsrv"
        printf 'wpad=%s\n' "$wpad"
        printf 'domain=%s\n' "$domain"
    } >"$file.new"
    mv -f "$file.new" "$file"
    ;;
deconfig)
    # Also said when a client starts: the lease of the one before it, which was killed, is still good then.
    if grep -qx "client=$PPID" "$file" 2>/dev/null; then rm -f "$file"; fi
    ;;
nak)
    rm -f "$file"
    ;;
esac
