"""Hosts, and which volume each may see."""

from __future__ import annotations

from dataclasses import replace

from sds.config import Address
from sds.engine.catalog import PROTOCOLS, Export, Host, Protocol, Volume, conflicts, now, page
from sds.engine.state import Item, State, unit_of
from sds.errors import Conflict, InUse, InvalidValue, NameTaken, NotFound
from sds.names import check_iqn, check_name, check_nqn

HOSTS_MAX = 4096
HOSTS_PER_EXPORT_MAX = 256
NAMED_MAX = 5  # How many names a refusal lists.


class Access:
    """Commands about hosts and exports."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def host_create(self, name: str, nqn: str | None = None, iqn: str | None = None) -> Item:
        """Notes a host by the name that it gives at login.

        Returns:
            item, and new: whether it was made now or was there already.

        Raises:
            InvalidValue: the name, the NQN or the IQN is refused, or neither of the two is given.
            NameTaken: the host exists with other names.
            Conflict: another host has that NQN or IQN.
        """
        check_name("name", name)
        if nqn is None and iqn is None:
            raise InvalidValue("nqn", f"host {name} needs a name to be known by", "nqn, iqn or both")
        host = Host(name, check_nqn("nqn", nqn) if nqn else nqn, check_iqn("iqn", iqn) if iqn else iqn, now())
        async with self._state.change:
            found = self._state.hosts.get(name)
            if found is not None:
                if found != host:
                    raise NameTaken(f"host {name} exists with nqn {found.nqn} and iqn {found.iqn}", field="name")
                return {"item": self._host_item(found), "new": False}
            other = conflicts(list(self._state.hosts.values()), host)
            if other is not None:
                raise Conflict(f"host {other} has that NQN or IQN", field="nqn" if nqn else "iqn")
            if len(self._state.hosts) >= HOSTS_MAX:
                raise InUse(f"the node has {HOSTS_MAX} hosts, the limit")
            self._state.db.put_host(host)
            self._state.hosts[name] = host
            self._state.events.add("info", "host-created", f"host {name} was created", f"host/{name}")
            return {"item": self._host_item(host), "new": True}

    async def host_list(self, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of hosts, by name."""
        hosts = sorted(self._state.hosts.values(), key=lambda one: one.name)
        shown, following = page(hosts, lambda one: one.name, limit, cursor)
        return {"items": [self._host_item(one) for one in shown], "next": following}

    async def host_get(self, name: str) -> Item:
        """One host."""
        return self._host_item(self._host(name))

    async def host_delete(self, name: str) -> None:
        """Forgets a host.

        Raises:
            NotFound: there is none.
            InUse: exports name it.
        """
        async with self._state.change:
            host = self._host(name)
            exports = [export.id for export in self._state.exports.values() if name in export.hosts]
            if exports:
                some = ", ".join(exports[:NAMED_MAX])
                raise InUse(f"host {name} may see {len(exports)} exports: {some}", accepted="a host without exports")
            for pool in self._state.online():
                await self._state.put_document(pool.name, host.key, None)
            self._state.db.delete_host(host)
            del self._state.hosts[name]
            self._state.events.add("info", "host-deleted", f"host {name} was deleted", f"host/{name}")

    async def export_create(
        self, volume: str, protocol: str, hosts: list[str] | None = None, any_host: bool | None = None
    ) -> Item:
        """Shows a volume to hosts over a protocol.

        Args:
            hosts: the names of the hosts that may see it; every other is refused.
            any_host: whether every host may; then `hosts` is empty.

        Returns:
            item, and new: whether it was made now or was there already.

        Raises:
            InvalidValue: the protocol is unknown, a host has no name in it, or not exactly one of hosts and any_host
                is given.
            NotFound: there is no such volume or host.
            NameTaken: the volume is exported over that protocol to other hosts.
        """
        async with self._state.change:
            found = self._state.volume(volume)
            wire = _check_protocol(protocol)
            names = self._check_hosts(wire, hosts or [], any_host=bool(any_host))
            self._state.online_pool(found.pool)
            export = Export(volume, found.pool, wire, names, bool(any_host), now())
            present = self._state.exports.get(export.id)
            if present is not None:
                if present != export:
                    to = "any host" if present.any_host else ", ".join(present.hosts)
                    raise NameTaken(
                        f"volume {volume} is exported over {protocol} to {to}",
                        field="hosts",
                        accepted=f"a change of its hosts (PATCH /v1/exports/{export.id}, sds export update)",
                    )
                return {"item": self._export_item(present), "new": False}
            other = next((one for one in self._state.exports.values() if one.target == export.target), None)
            if other is not None:
                # A volume that was renamed is exported under its former name.
                raise NameTaken(f"export {other.id} has the name {export.target}", field="volume")
            await self._store(found, export)
            message = f"volume {volume} is exported over {protocol} as {export.target}"
            self._state.events.add("info", "export-created", message, f"export/{export.id}")
            return {"item": self._export_item(export), "new": True}

    async def export_update(self, export: str, hosts: list[str] | None = None, any_host: bool | None = None) -> Item:
        """Changes who may see an export. A host that no longer may is refused at its next login.

        Raises:
            NotFound, InvalidValue: as `export_create`.
        """
        async with self._state.change:
            found = self._export(export)
            names = self._check_hosts(found.protocol, hosts or [], any_host=bool(any_host))
            changed = replace(found, hosts=names, any_host=bool(any_host))
            if changed != found:
                await self._store(self._state.volume(found.volume), changed)
                to = "any host" if changed.any_host else ", ".join(names)
                self._state.events.add("info", "export-updated", f"{export} may be seen by {to}", f"export/{export}")
            return self._export_item(changed)

    async def export_list(self, volume: str | None = None, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of exports, by volume and protocol; of one volume if it is named."""
        if volume is not None:
            self._state.volume(volume)
        exports = [one for one in self._state.exports.values() if volume in {None, one.volume}]
        shown, following = page(sorted(exports, key=lambda one: one.id), lambda one: one.id, limit, cursor)
        return {"items": [self._export_item(one) for one in shown], "next": following}

    async def export_get(self, export: str) -> Item:
        """One export."""
        return self._export_item(self._export(export))

    async def export_delete(self, export: str) -> None:
        """Takes a volume away from its hosts over one protocol.

        Raises:
            NotFound: there is no such export.
        """
        async with self._state.change:
            found = self._export(export)
            volume = self._state.volume(found.volume)
            self._state.online_pool(volume.pool)
            await self._state.put_document(volume.pool, found.key(volume), None)
            del self._state.exports[export]
            await self._state.publish()
            self._state.events.add("info", "export-deleted", f"{export} is not exported any more", f"export/{export}")

    async def _store(self, volume: Volume, export: Export) -> None:
        # The hosts go with the export, so that a pool that moves to another node brings them along.
        for name in export.hosts:
            host = self._state.hosts[name]
            await self._state.put_document(volume.pool, host.key, host.encode())
        await self._state.put_document(volume.pool, export.key(volume), export.encode())
        self._state.exports[export.id] = export
        await self._state.publish()

    def _check_hosts(self, protocol: Protocol, hosts: list[str], *, any_host: bool) -> tuple[str, ...]:
        if any_host == bool(hosts):
            what = "hosts are named although any host may" if any_host else "no host is named"
            raise InvalidValue("hosts", what, "names of hosts, or any_host alone")
        if len(hosts) > HOSTS_PER_EXPORT_MAX:
            raise InvalidValue("hosts", f"{len(hosts)} hosts are named", f"{HOSTS_PER_EXPORT_MAX} at most")
        kind = "NQN" if protocol == "nvme" else "IQN"
        for name in hosts:
            if self._host(name).initiator(protocol) is None:
                raise InvalidValue("hosts", f"host {name} has no {kind}", f"hosts with an {kind}")
        return tuple(sorted(set(hosts)))

    def _host(self, name: str) -> Host:
        if name not in self._state.hosts:
            raise NotFound(f"there is no host {name!r}", field="host")
        return self._state.hosts[name]

    def _export(self, name: str) -> Export:
        if name not in self._state.exports:
            raise NotFound(f"there is no export {name!r}", field="export")
        return self._state.exports[name]

    def _host_item(self, host: Host) -> Item:
        exports = sorted(export.id for export in self._state.exports.values() if host.name in export.hosts)
        return {"name": host.name, "nqn": host.nqn, "iqn": host.iqn, "exports": exports, "created": host.created}

    def _export_item(self, export: Export) -> Item:
        nvme = export.protocol == "nvme"
        address = self.address(export.protocol)
        return {
            "id": export.id,
            "volume": export.volume,
            "pool": export.pool,
            "protocol": export.protocol,
            "hosts": list(export.hosts),
            "any_host": export.any_host,
            "nqn": export.target if nvme else None,
            "nsid": unit_of(export) if nvme else None,
            "iqn": None if nvme else export.target,
            "lun": None if nvme else unit_of(export),
            "address": str(address),
            "connect": connect_line(export, address),
            "created": export.created,
        }

    def address(self, protocol: Protocol) -> Address:
        """Where hosts reach a protocol's target."""
        bound = Address.parse(protocol, self._state.addresses[protocol])
        return Address(self._state.config.advertised(bound), bound.port)


def connect_line(export: Export, address: Address) -> str:
    """What an administrator types on the host."""
    if export.protocol == "nvme":
        return f"nvme connect -t tcp -a {address.host} -s {address.port} -n {export.target}"
    return (
        f"iscsiadm -m discovery -t sendtargets -p {address} && iscsiadm -m node -T {export.target} -p {address} --login"
    )


def _check_protocol(protocol: str) -> Protocol:
    for known in PROTOCOLS:
        if protocol == known:
            return known
    raise InvalidValue("protocol", f"there is no protocol {protocol!r}", " or ".join(PROTOCOLS))
