// A model's folder in the page: config.json, tokenizer.json, model.safetensors, as Transformer.from_pretrained opens them.
import { checkConfig, floatsOf, readTensors } from "./model.js";

const NAMES = ["config.json", "tokenizer.json", "model.safetensors"], asBytes = text => new TextEncoder().encode(text);

// The files: name -> Uint8Array. tensors: name -> Float32Array; shapes: name -> array.
export function writeFolder(config, tokenizer, tensors, shapes) {
  const header = {};
  let size = 0;
  for (const [name, { length }] of Object.entries(tensors))
    header[name] = { dtype: "F32", shape: shapes[name], data_offsets: [size, size += 4 * length] };
  let text = JSON.stringify(header);
  text = text.padEnd(Math.ceil(text.length / 8) * 8);
  const weights = new Uint8Array(8 + text.length + size), begin = 8 + text.length;
  new DataView(weights.buffer).setBigUint64(0, BigInt(text.length), true);
  weights.set(asBytes(text), 8);
  for (const [name, { buffer, byteOffset, byteLength }] of Object.entries(tensors))
    weights.set(new Uint8Array(buffer, byteOffset, byteLength), begin + header[name].data_offsets[0]);
  const json = value => asBytes(`${JSON.stringify(value, null, 2)}\n`);
  return { "config.json": json(config), "tokenizer.json": json(tokenizer), "model.safetensors": weights };
}

// {config, tokenizer, tensors} from the files of a folder: name -> ArrayBuffer or Uint8Array.
export function readFolder(files) {
  for (const name of NAMES) if (!files[name]) throw new Error(`The folder has no ${name}; a model's has ${NAMES.join(", ")}.`);
  const json = name => {
    try { return JSON.parse(new TextDecoder().decode(files[name])); }
    catch { throw new Error(`${name} is damaged: it is not JSON.`); }
  };
  const config = json("config.json");
  checkConfig(config);
  const tensors = readTensors(Uint8Array.from(new Uint8Array(files["model.safetensors"])).buffer);
  const floats = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, floatsOf(tensor)]));
  return { config, tokenizer: json("tokenizer.json"), tensors: floats };
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte >>> 1 ^ (byte & 1 && 0xedb88320);
  return byte;
});

// A .zip of files, name -> Uint8Array, uncompressed and without dates: for each its header and itself, then the list of them all.
export function zip(files) {
  const parts = [], list = [];
  let place = 0;
  const numbers = (...pairs) => pairs.flatMap(([value, size]) => Array.from({ length: size }, (_, i) => value >>> 8 * i & 255));
  for (const [name, content] of Object.entries(files)) {
    const path = asBytes(name);
    let crc = -1;
    for (const byte of content) crc = crc >>> 8 ^ CRC[(crc ^ byte) & 255];
    // version 2.0, UTF-8 names, stored, 1980-01-01 at 0:00, sizes before and after
    const about = numbers([20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [~crc, 4], [content.length, 4], [content.length, 4], [path.length, 2], [0, 2]);
    parts.push(Uint8Array.from(numbers([0x04034b50, 4])), Uint8Array.from(about), path, content);
    list.push(Uint8Array.from([...numbers([0x02014b50, 4], [20, 2]), ...about, ...numbers([0, 2], [0, 2], [0, 2], [0, 4], [place, 4])]), path);
    place += 4 + about.length + path.length + content.length;
  }
  const size = list.reduce((sum, { length }) => sum + length, 0), count = list.length / 2;
  const end = numbers([0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [place, 4], [0, 2]);
  const all = new Uint8Array(place + size + end.length);
  [...parts, ...list, Uint8Array.from(end)].reduce((at, part) => { all.set(part, at); return at + part.length; }, 0);
  return all;
}
