-module(emqx_utils_json).
-export([decode/2, encode/1]).

decode(Text, [return_maps]) -> jiffy:decode(Text, [return_maps]).

encode(Value) -> iolist_to_binary(jiffy:encode(Value)).
