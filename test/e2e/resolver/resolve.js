// Does with Node's resolvers what c/resolve.c does with a C library's, and prints the same lines. Addresses are looked up as Node's
// sockets do (getaddrinfo in a thread); SRV and PTR with its c-ares.
'use strict';
const dns = require('dns').promises;
const [what, ...args] = process.argv.slice(2);
const none = new Set(['ENOTFOUND', 'ENODATA']);

async function result(found) {
	try {
		return (await found()).sort().join(',') || 'none';
	} catch (err) {
		return none.has(err.code) ? 'none' : 'error:' + err.code;
	}
}

async function names() {
	for (const name of args) {
		for (const [kind, family] of [['ip', 0], ['ip4', 4], ['ip6', 6]]) {
			console.log(kind, name, await result(async () => (await dns.lookup(name, { all: true, family })).map((a) => a.address)));
		}
	}
}

async function pairs(count, name) {
	let failed = 0, slow = 0, longest = 0;
	for (let i = 0; i < count; i++) {
		const began = process.hrtime.bigint();
		await dns.lookup(name, { all: true }).catch(() => failed++);
		const took = Number(process.hrtime.bigint() - began) / 1000;
		slow += took > 1e6 ? 1 : 0;
		longest = Math.max(longest, took);
	}
	console.log('pairs', count, failed, slow, Math.round(longest));
}

const verbs = {
	names,
	srv: async () => console.log('srv', args[0], await result(async () => (await dns.resolveSrv(args[0])).map((s) => s.name + ':' + s.port))),
	ptr: async () => console.log('ptr', args[0], await result(() => dns.reverse(args[0]))),
	pairs: () => pairs(Number(args[0]), args[1]),
};
verbs[what]();
