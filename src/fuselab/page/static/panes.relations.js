// A part of the panes' script: panes.py joins panes.{texts,relations,pane,view}.js within one function, in this order.
// --- relations between the lines of one kernel's stages -----------------------------------------------------------

const push = (map, key, value) => { const list = map.get(key); if (list) list.push(value); else map.set(key, [value]); };
const relations = (entry, graph, kernel, stages) => {
  const source = stages.get("triton")?.rows.length ? "triton" : stages.get("cpp")?.rows.length ? "cpp" : null;
  const lines = kernel.lines || [];
  const byLine = new Map(lines.map((line) => [line.line, line]));
  const came = kernel.came || {};
  const inverse = {};
  for (const [stage, table] of Object.entries(came)) {
    inverse[stage] = new Map();
    for (const [line, places] of Object.entries(table)) for (const place of places) push(inverse[stage], place, Number(line));
  }
  const nodes = new Map((graph.nodes || []).map((node) => [node.name, node]));
  const nodesOfUser = new Map(), nodesOfFx = new Map(), linesOfNode = new Map(), linesOfUser = new Map();
  for (const node of nodes.values()) {
    if (node.user) push(nodesOfUser, node.user, node.name);
    for (const fx of node.fx) push(nodesOfFx, fx, node.name);
  }
  for (const line of lines) {
    for (const node of line.nodes) push(linesOfNode, node, line.line);
    for (const user of line.user) push(linesOfUser, user, line.line);
  }
  // A graph's lines by the name that they assign, and by the user's line that stands above them as a comment.
  const named = {}, placed = {}, namesAt = {}, placeAt = {};
  for (const key of GRAPHS) {
    const stage = stages.get(key);
    if (!stage || !stage.rows.length) continue;
    named[key] = new Map(); placed[key] = new Map(); namesAt[key] = new Map(); placeAt[key] = new Map();
    let place = "";
    stage.rows.forEach((row, i) => {
      const comment = /^\s*# File: (.+?:\d+) in /.exec(row.text);
      if (comment) { place = comment[1]; return; }
      if (/^\s*def forward\(/.test(row.text)) {
        for (const match of row.text.matchAll(/[(,]\s*([A-Za-z_]\w*)\s*(?=[:,)])/g)) if (match[1] !== "self") {
          if (!named[key].has(match[1])) named[key].set(match[1], i);
          push(namesAt[key], i, match[1]);
        }
        return;
      }
      const assigned = /^\s+([A-Za-z_]\w*)\s*(?::\s*(?:"[^"]*"|'[^']*'|[^=]*?))?\s*=(?!=)/.exec(row.text);
      if (!assigned) return;
      if (!named[key].has(assigned[1])) named[key].set(assigned[1], i);
      push(namesAt[key], i, assigned[1]);
      if (place) { push(placed[key], place, i); placeAt[key].set(i, place); }
    });
  }
  const output = stages.get("output_code");
  let offset = null, def = 0;
  if (source) {
    const rows = stages.get(source).rows;
    def = rows.findIndex((row) => /^(?:def |extern "C")/.test(row.text)) + 1;
    if (output && output.rows.length) offset = standsAt(rows, output.rows, def, entry.name);
  }
  const launches = new Map(); // rows of the output code to the kernels that they launch
  for (const [id, at] of Object.entries(graph.launches || {})) for (const line of at) push(launches, line, id);

  const statementOf = (line) => {
    if (byLine.has(line)) return byLine.get(line);
    let last = null;
    for (const one of lines) { if (one.line > line) break; last = one; }
    const text = source ? (stages.get(source).rows[line - 1]?.text || "").trim() : "";
    return last && last.kind !== "control" && text && text !== "{" && text !== "}" ? last : null;
  };
  const unique = (list) => [...new Set(list)];

  const relate = (key, row) => {
    let hub = [], raw = [], names = [], users = [], fx = [], launch = false, own = "";
    const line = row + 1;
    const toHub = (at) => { const found = statementOf(at); if (found) hub.push(found); else raw.push(at); };
    const fromNodes = () => {
      hub = unique(names.flatMap((name) => linesOfNode.get(name) || [])).map((at) => byLine.get(at));
      users = users.concat(names.map((name) => nodes.get(name)?.user).filter(Boolean));
      fx = fx.concat(names.flatMap((name) => nodes.get(name)?.fx || []));
    };
    const fromHub = () => {
      names = unique(hub.flatMap((one) => one.nodes));
      users = unique(hub.flatMap((one) => one.user));
      fx = unique(names.flatMap((name) => nodes.get(name)?.fx || []));
    };
    if (key === source) { toHub(line); fromHub(); }
    else if (came[key]) { for (const at of came[key][line] || []) toHub(at); hub = unique(hub); raw = unique(raw); fromHub(); }
    else if (key === "user") {
      own = stages.get("user").rows[row].user || "";
      if (own) {
        users = [own];
        names = nodesOfUser.get(own) || [];
        hub = unique(linesOfUser.get(own) || []).map((at) => byLine.get(at));
        fx = names.flatMap((name) => nodes.get(name)?.fx || []);
      }
    } else if (key === "post_grad_graph") { names = (namesAt[key]?.get(row) || []).filter((name) => nodes.has(name)); fromNodes(); }
    else if (key === "dynamo_graph" && (namesAt[key]?.get(row) || []).some((name) => nodesOfFx.has(name))) {
      fx = namesAt[key].get(row);
      names = unique(fx.flatMap((name) => nodesOfFx.get(name) || []));
      fromNodes();
    } else if (GRAPHS.includes(key)) {
      const place = placeAt[key]?.get(row);
      if (place && stages.get("user").at.has(place)) { const found = relate("user", stages.get("user").at.get(place)); found.lit.get(key)?.add(row); return found; }
    } else if (key === "output_code") {
      if ((kernel.launched || []).includes(line)) { launch = true; names = [...(kernel.nodes || [])]; users = unique(names.map((name) => nodes.get(name)?.user).filter(Boolean)); fx = unique(names.flatMap((name) => nodes.get(name)?.fx || [])); raw = def ? [def] : []; }
      else if (offset !== null && line > offset && line <= offset + stages.get(source).rows.length) { toHub(line - offset); fromHub(); }
    }
    const lit = new Map();
    const light = (stage, at) => { if (at === undefined || at < 0) return; if (!lit.has(stage)) lit.set(stage, new Set()); lit.get(stage).add(at); };
    const sourceLines = unique([...hub.map((one) => one.line), ...raw]);
    if (source) for (const at of sourceLines) light(source, at - 1);
    for (const stage of Object.keys(inverse)) {
      for (const one of hub) for (const at of one.became?.[stage] || []) light(stage, at - 1);
      for (const at of raw) for (const place of inverse[stage].get(at) || []) light(stage, place - 1);
    }
    for (const name of names) light("post_grad_graph", named.post_grad_graph?.get(name));
    for (const name of fx) light("dynamo_graph", named.dynamo_graph?.get(name));
    for (const user of unique(users)) {
      light("user", stages.get("user").at.get(user));
      for (const stage of GRAPHS) if (!["dynamo_graph", "post_grad_graph"].includes(stage)) for (const at of placed[stage]?.get(user) || []) light(stage, at);
    }
    if (output?.rows.length) {
      if (offset !== null) for (const at of sourceLines) light("output_code", offset + at - 1);
      if (launch || (sourceLines.length && (offset === null || raw.includes(def)))) for (const at of kernel.launched || []) light("output_code", at - 1);
      if (!source) { const mine = kernel.nodes || []; if (names.some((name) => mine.includes(name)) || users.some((user) => mine.some((name) => nodes.get(name)?.user === user))) for (const at of kernel.launched || []) light("output_code", at - 1); }
    }
    const others = unique([...names.map((name) => nodes.get(name)?.kernel).filter((id) => id && id !== entry.id), ...(key === "output_code" ? (launches.get(line) || []).filter((id) => id !== entry.id) : [])]);
    const found = [...lit].some(([stage, rows]) => stage !== key || rows.size > 1 || !rows.has(row));
    light(key, row);
    return { lit, found, hub, names, users: unique(users), others, folded: unique(hub.flatMap((one) => one.folded || [])) };
  };
  // Each statement has a tint, the same in every stage below.
  const tint = new Map(lines.filter((line) => line.kind !== "control").map((line, i) => [line.line, i % 8]));
  const tintOf = (key, row) => {
    const line = row + 1;
    if (key === source) { const found = statementOf(line); return found ? tint.get(found.line) : undefined; }
    if (came[key]) { for (const at of came[key][line] || []) { const found = statementOf(at); if (found && tint.has(found.line)) return tint.get(found.line); } return undefined; }
    if (key === "output_code" && offset !== null && line > offset && line <= offset + stages.get(source).rows.length) { const found = statementOf(line - offset); return found ? tint.get(found.line) : undefined; }
    return undefined;
  };
  const nodeAt = (row) => (namesAt.post_grad_graph?.get(row) || []).map((name) => nodes.get(name)).filter(Boolean);
  // Where a reader would begin: the first line below the kernel's head that is mapped.
  const useful = (key, row) => Boolean(came[key]?.[row + 1]?.some((at) => at > def && byLine.has(at))) || (key === "output_code" && (kernel.launched || []).includes(row + 1));
  return { relate, tintOf, useful, source, nodeAt };
};
// Where a kernel's source stands within the output code: the shift at which most of its lines are found.
const standsAt = (rows, output, def, name) => {
  const anchors = rows.map((row, i) => [row.text.trim(), i]).filter(([text]) => text.length > 12 && !/^(?:import|from|#include)/.test(text));
  const wanted = new Map();
  for (const [text, i] of anchors.slice(0, 60)) push(wanted, text, i);
  const votes = new Map();
  output.forEach((row, at) => { for (const i of wanted.get(row.text.trim()) || []) votes.set(at - i, (votes.get(at - i) || 0) + 1); });
  let best = null;
  for (const [shift, count] of votes) if (best === null || count > votes.get(best)) best = shift;
  return best !== null && votes.get(best) * 2 >= Math.min(anchors.length, 60) ? best : null;
};
