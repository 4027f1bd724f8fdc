// What every side of bulk and dial speaks: eight bytes say how many follow, one byte answers once they are there.

const HEADER = 8

export class Sink {
  #header = Buffer.alloc(0)
  #missing = 0n

  // Whether a request is complete now.
  take (data) {
    if (this.#missing === 0n) {
      this.#header = Buffer.concat([this.#header, data])
      if (this.#header.length < HEADER) return false
      this.#missing = this.#header.readBigUInt64BE()
      data = this.#header.subarray(HEADER)
      this.#header = Buffer.alloc(0)
    }
    this.#missing -= BigInt(data.length)
    return this.#missing === 0n
  }
}

export function * request (bytes, chunk) {
  const header = Buffer.alloc(HEADER)
  header.writeBigUInt64BE(BigInt(bytes))
  yield header
  const block = Buffer.alloc(chunk, 0x5a)
  for (let left = bytes; left > 0; left -= chunk) yield left < chunk ? block.subarray(0, left) : block
}

// As long as dial.py pauses between two dials.
export function pause () {
  return new Promise(resolve => setTimeout(resolve, 100))
}

export function median (values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]
}
