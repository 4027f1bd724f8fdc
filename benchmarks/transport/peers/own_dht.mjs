// A node that others reach directly, which is hyperdht's best case: behind a firewall it would punch a hole first.
import HyperDHT from 'hyperdht'

export function open (bootstrap) {
  const [host, port] = bootstrap.split(':')
  return new HyperDHT({
    host: '127.0.0.1',
    firewalled: false,
    ephemeral: false,
    bootstrap: [{ host, port: Number(port) }]
  })
}
